"""Paired timings against RELION on the same machine; never run as tests."""
