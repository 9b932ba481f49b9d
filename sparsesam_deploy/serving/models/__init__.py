"""Models of Triton's python backend, copied into the repository as they are: NumPy and Pillow is all they import."""
