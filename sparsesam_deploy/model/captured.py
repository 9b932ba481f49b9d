"""An encoder as one CUDA graph: no launch waits for Python, and memory is reserved once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import InvalidInput
from .config import IMAGE_SIZE

WARM_UP = 3
"""Runs before the capture: libraries choose their algorithms and kernels are compiled, which no graph may record."""


_capturing = threading.Lock()
"""A capture begins with waiting for the whole GPU, which fails while another one is recorded on it."""

T = TypeVar("T")


def record_graph(run: Callable[[], T], stream: torch.cuda.Stream) -> tuple[torch.cuda.CUDAGraph, T]:
    """Run a few times, then record the next run as a CUDA graph, in ``stream``, which is the current one.

    Returns:
        The graph, and the results that every replay writes anew.
    """
    for _ in range(WARM_UP):
        run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with _capturing, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        results = run()
    return graph, results


class CapturedEncoder:
    """``encoder`` recorded at a fixed batch, replayed with one call; answers are those of ``encoder(image)``.

    Calls may come from any thread and any stream: they take turns, in host order, and a call returns at once, its
    result ready in the caller's stream; an image in pinned memory must stay until then. Two `CapturedEncoder` of one
    encoder run side by side. Weights are read where they are at each replay; moving or casting the encoder afterwards
    is not seen.

    Args:
        encoder: an image encoder with all parameters on one GPU.
        batch: images per call.

    Raises:
        InvalidInput: the encoder is not on a GPU, or ``batch`` is below 1.

    Attributes:
        device, dtype: what images are moved and cast to.
    """

    def __init__(self, encoder: nn.Module, batch: int = 1) -> None:
        parameter = next(encoder.parameters())
        self.device, self.dtype, self.batch = parameter.device, parameter.dtype, batch
        if not parameter.is_cuda:
            raise InvalidInput(f"the encoder is on {parameter.device}; a CUDA graph needs it on a GPU: encoder.cuda().")
        if batch < 1:
            raise InvalidInput(f"batch {batch} is no number of images; give 1 or more.")
        self._encoder = encoder  # the graph holds addresses of its weights, not the weights
        self._lock = threading.Lock()
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(self.device):
            self._image = torch.zeros(batch, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=self.dtype, device=self.device)
            # Of its own, because cuBLAS keeps a workspace for each stream: graphs of one stream would share it.
            self._stream = torch.cuda.Stream()
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._graph, self._result = record_graph(lambda: encoder(self._image), self._stream)
            self._free = torch.cuda.Event()
            self._free.record()

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """Encode.

        Args:
            image: (batch, 3, 1024, 1024), normalised and padded; any device and floating-point dtype.

        Returns:
            (batch, 256, 64, 64) image embeddings on `device`, in memory of the caller's own.

        Raises:
            InvalidInput: another shape.
        """
        if image.shape != self._image.shape:
            raise InvalidInput(
                f"the image has shape {tuple(image.shape)} and this encoder was captured for "
                f"{tuple(self._image.shape)}; capture another one for this batch."
            )
        with self._lock, torch.cuda.device(self.device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._free)
            self._image.copy_(image, non_blocking=True)
            self._graph.replay()
            result = self._result.clone()
            self._free.record(stream)
        return result
