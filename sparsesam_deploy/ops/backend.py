"""Which implementation of the operators runs, always chosen by name."""

from typing import Literal

Backend = Literal["reference", "sdpa", "triton"]
"""``reference``: plain torch, anywhere. ``sdpa``: torch's fused attention, anywhere, without own tiles. ``triton``: the
GPU kernels. ``sdpa`` is the first to try on a kind of GPU on which ``triton`` has not run yet: it brings no code of
ours to the GPU.
"""
