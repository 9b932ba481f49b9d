"""Do the exported files and engines compute what the PyTorch model computes? docs/proof.md says how it is judged."""
