"""Which implementation of the operators runs, always chosen by name."""

from typing import Literal

Backend = Literal["reference", "sdpa", "triton"]
"""``reference``: plain torch, anywhere. ``sdpa``: torch's fused attention, anywhere, without own tiles. ``triton``: the
GPU kernels. On a GPU whose kernels nobody has run, ``sdpa`` is the first to try: it has no code of ours on the GPU.
"""
