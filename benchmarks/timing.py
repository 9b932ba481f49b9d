"""How long a call takes on a GPU, and the rule that nothing is timed before its result was compared.

Inputs must be random, never zeros: a matrix product on zeros runs faster than on data.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sparsesam_deploy.runtime.timing import Call, graph_replay, milliseconds

WARM_UP = 3
"""Eager calls before any timing: kernels are compiled and libraries choose their algorithms."""
LEAST_SAMPLES, MOST_SAMPLES = 5, 100


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: the median, and the 10th and 90th percentile as its spread."""

    median: float
    p10: float
    p90: float
    samples: int


@dataclass(frozen=True)
class Row:
    """One variant: ``status`` is timed, failed (no time then) or not run; ``error`` is relative, in L2."""

    name: str
    status: str
    detail: str = ""
    error: float | None = None
    timing: Timing | None = None

    @property
    def median(self) -> float | None:
        """Microseconds, where it was timed."""
        return None if self.timing is None else self.timing.median


def summary(samples: Sequence[float]) -> Timing:
    """Median and spread of times in microseconds."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    p10, p90 = ordered[round(0.1 * last)], ordered[round(0.9 * last)]
    return Timing(*(round(t, 3) for t in (statistics.median(ordered), p10, p90)), len(ordered))


def time_graph(calls: Sequence[Call], seconds: float = 0.4) -> Timing:
    """Time of one of ``calls``, recorded one after the other in a CUDA graph that is replayed for about ``seconds``.

    Give several calls with inputs of their own where one input would fit in the cache.
    """

    def one_after_the_other() -> None:
        for call in calls:
            call()

    replay = graph_replay(one_after_the_other)
    timing = _timed(replay, len(calls), seconds)
    del replay  # and with it the graph's memory
    torch.cuda.empty_cache()
    return timing


def time_eager(call: Call, seconds: float = 0.4) -> Timing:
    """Time of ``call`` launched by Python, gaps between launches included."""
    for _ in range(WARM_UP):
        call()
    return _timed(call, 1, seconds)


def _timed(call: Call, calls: int, seconds: float) -> Timing:
    gpu = torch.device("cuda")
    call()
    torch.cuda.synchronize()
    first = milliseconds(call, gpu)
    samples = min(MOST_SAMPLES, max(LEAST_SAMPLES, int(1000 * seconds / max(first, 0.001))))
    return summary([1000 * milliseconds(call, gpu) / calls for _ in range(samples)])


def peak_memory(call: Call) -> int:
    """Bytes allocated at the peak of ``call`` over what was allocated before it; call it once before, for workspaces.

    What the allocator reserves beyond that is not counted.
    """
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measure(
    name: str, error: Callable[[], float], tolerance: float, time: Callable[[], Timing], optional: bool = False
) -> Row:
    """Compare, then time. What raises is failed, or not run where it is ``optional`` (another library's code)."""
    found = None
    try:
        found = error()
        if not found <= tolerance:
            return Row(name, "failed", f"relative error {found:.1e} is above {tolerance:.0e}, not timed", found)
        return Row(name, "timed", "", found, time())
    except Exception as problem:  # whatever a library raises: the other variants go on
        return Row(name, "not run" if optional else "failed", reason(problem), found)


def reason(problem: BaseException) -> str:
    """The kind of ``problem`` and its first line, at most 200 characters."""
    first = next((line for line in str(problem).splitlines() if line.strip()), "")
    return f"{type(problem).__name__}: {first}"[:200]
