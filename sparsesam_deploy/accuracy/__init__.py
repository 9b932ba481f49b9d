"""What sparsity costs in masks, on whose images, and which densities an accuracy budget allows."""
