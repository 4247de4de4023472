"""What a run consists of: plain dataclasses over NumPy arrays, without any input or output."""
