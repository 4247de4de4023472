"""Parity with RELION 3.1.3: the same command lines, the same files, compared field by field."""
