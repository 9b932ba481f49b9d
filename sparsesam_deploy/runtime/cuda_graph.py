"""A function recorded as a CUDA graph: replaying it is one call, in which no launch waits for Python."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import torch

WARM_UP = 3
"""Runs before the capture: libraries choose their algorithms and kernels are compiled, which no graph may record."""

_capturing = threading.Lock()
"""A capture begins with waiting for the whole GPU, which fails while another one is recorded on it."""

T = TypeVar("T")


def record_graph(run: Callable[[], T], stream: torch.cuda.Stream) -> tuple[torch.cuda.CUDAGraph, T]:
    """Run a few times, then record the next run as a CUDA graph, in ``stream``, which is the current one.

    ``stream`` is the graph's own: cuBLAS keeps a workspace for each stream, which graphs of one stream would share.

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
