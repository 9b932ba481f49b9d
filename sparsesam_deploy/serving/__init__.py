"""A Triton Inference Server repository from what ``sparsesam-export build`` made."""
