"""Launch settings of the GPU kernels, measured."""
