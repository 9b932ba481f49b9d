"""How long a call takes: on a GPU by CUDA events, which know when the GPU began and ended, elsewhere by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from .cuda_graph import record_graph

Call = Callable[[], Any]


def milliseconds(call: Call, device: torch.device) -> float:
    """The time of one call; call once before, since the first call compiles kernels and reserves memory.

    On a GPU the time between CUDA events around the call in the current stream: the GPU's, with its waits for the host.
    """
    if device.type != "cuda":
        begun = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - begun)
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


def graph_replay(call: Call) -> Callable[[], None]:
    """``call`` as a CUDA graph on the current GPU, whose `milliseconds` have no waits for the host between kernels.

    ``call`` runs a few times before it is recorded.
    """
    current, own = torch.cuda.current_stream(), torch.cuda.Stream()
    own.wait_stream(current)
    with torch.cuda.stream(own):
        graph, _ = record_graph(call, own)
    current.wait_stream(own)
    return graph.replay
