"""The inner loops that are written in CUDA C, and what starts them."""
