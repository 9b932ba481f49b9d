"""The Triton kernels of stripe attention: position terms, and one kernel for each kind of stripe."""
