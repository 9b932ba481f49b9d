"""Is what was exported and built the same function as the PyTorch model?"""
