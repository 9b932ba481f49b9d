"""A run on a GPU: it waits for the caller's stream, which then waits for it; host images go by pinned memory."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from .cuda_graph import record_graph
from .interface import Run, Runtime


class GpuCall:
    """A run in a stream of its own: calls may come from any thread and any stream and take turns, in host order.

    A call returns at once. Its image is read after all that the caller's stream had to do, and the caller's stream goes
    on with the result. TensorRT must not be given the default stream, in which it would wait for the GPU. Torch has 32
    streams for each GPU and deals them out in turn: the 33rd call shares the first one's, right but not side by side.

    Args:
        runtime: makes the run; with ``cuda_graph`` one more for each batch size, since a graph keeps its run's memory.
    """

    def __init__(self, runtime: Runtime, cuda_graph: bool) -> None:
        self._device, self._lock = runtime.device, threading.Lock()
        with torch.cuda.device(self._device):
            self._stream = torch.cuda.Stream()
            with torch.cuda.stream(self._stream):
                self._run = None if cuda_graph else runtime.new_run()
        self._new_run = runtime.new_run
        self._graphs: dict[int, _Graph] = {}
        self._staging: dict[int, _Staging] = {}

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        """Encode an image (B, 3, 1024, 1024), float32 and contiguous, on the GPU or the host."""
        with self._lock, torch.cuda.device(self._device):
            caller = torch.cuda.current_stream()
            self._stream.wait_stream(caller)
            with torch.cuda.stream(self._stream):
                if not image.is_cuda:
                    image = self._staging_for(image)(image)
                results = (self._run or self._graph_for(image))(image)
            caller.wait_stream(self._stream)
            for result in results:  # made in one stream, read in another: freed only when both are done with it
                result.record_stream(caller)
        return results

    def _staging_for(self, image: Tensor) -> _Staging:
        if len(image) not in self._staging:
            self._staging[len(image)] = _Staging(image, self._device)
        return self._staging[len(image)]

    def _graph_for(self, image: Tensor) -> Run:
        if len(image) not in self._graphs:
            self._graphs[len(image)] = _Graph(self._new_run(), image, self._stream)
        return self._graphs[len(image)]


class _Staging:
    """Two pinned buffers that take turns, so that the host fills one while the GPU has yet to read the other."""

    def __init__(self, image: Tensor, device: torch.device) -> None:
        self._device, self._turn = device, 0
        self._buffers = [torch.empty(image.shape, dtype=torch.float32, device="cpu", pin_memory=True) for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in range(2)]

    def __call__(self, image: Tensor) -> Tensor:
        """The image on the GPU; the caller may write over his at once."""
        turn, self._turn = self._turn, 1 - self._turn
        self._copied[turn].synchronize()
        on_gpu = self._buffers[turn].copy_(image).to(self._device, non_blocking=True)
        self._copied[turn].record()
        return on_gpu


class _Graph:
    """A run recorded as a CUDA graph for one batch size, with an image and results of its own."""

    def __init__(self, run: Callable[[Tensor], tuple[Tensor, ...]], image: Tensor, stream: torch.cuda.Stream) -> None:
        self._run = run  # the graph has the addresses of its memory
        self._image = image.clone()
        self._graph, self._results = record_graph(lambda: run(self._image), stream)

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        """Results in memory of their own."""
        self._image.copy_(image)
        self._graph.replay()
        return tuple(result.clone() for result in self._results)
