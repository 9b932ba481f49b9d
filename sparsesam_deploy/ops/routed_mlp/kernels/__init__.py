"""The Triton kernels around a routed MLP: scores, ranks and rows, and those of the quadtree."""
