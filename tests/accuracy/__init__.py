"""Accuracy against independent truth: poses and maps of a finished run, of tomoburst or of RELION."""
