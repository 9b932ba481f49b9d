"""`Runtime`: the program that computes an encoder, as `load` hands it over. Each runtime is a file of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Run = Callable[[Tensor], tuple[Tensor, ...]]
"""An image (B, 3, 1024, 1024) on the runtime's device -> the encoder's outputs; all float32 and contiguous."""

INPUT = "image"


class Runtime(ABC):
    """Weights on a device, shared by any number of runs, except that ONNX Runtime on a GPU has them once for each.

    Attributes:
        device: where images are taken and results made.
        kernels: what computes, in words.
    """

    device: torch.device
    kernels: str

    @abstractmethod
    def new_run(self) -> Run:
        """A function with working memory of its own, so that it may be used beside others.

        On a GPU it is always called in the stream that is current now.
        """


def float32_result(sizes: Sequence[int], device: torch.device) -> Tensor:
    """Memory for a result, whatever torch's default dtype is."""
    return torch.empty(tuple(sizes), dtype=torch.float32, device=device)
