"""Which implementation of the operators runs, always chosen by name."""

from typing import Literal

Backend = Literal["reference", "triton"]
"""``reference``: plain torch, anywhere. ``triton``: the GPU kernels."""
