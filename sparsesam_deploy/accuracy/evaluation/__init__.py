"""What sparsity costs on images with prompts: a resumable run, its scores and its statistics."""
