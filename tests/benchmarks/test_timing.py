"""What a timing is, and that nothing wrong is timed."""

from __future__ import annotations

import math

import pytest

from benchmarks import timing
from benchmarks.timing import Timing, measure

TIMED = Timing(10.0, 9.0, 11.0, 5)


def test_summary_is_median_and_spread():
    assert timing.summary([float(t) for t in range(100, -1, -1)]) == Timing(50.0, 10.0, 90.0, 101)
    assert timing.summary([3.0]) == Timing(3.0, 3.0, 3.0, 1)


@pytest.mark.parametrize(("took", "samples"), ((2.0, 20), (0.0, timing.MOST_SAMPLES), (100.0, timing.LEAST_SAMPLES)))
def test_a_graph_of_several_calls_is_replayed_for_a_while(monkeypatch, took: float, samples: int):
    """The time is one call's, whatever the number of calls in the graph."""
    recorded, played = [], []
    monkeypatch.setattr(timing, "graph_replay", lambda run: run() or (lambda: played.append(1)))
    monkeypatch.setattr(timing, "milliseconds", lambda call, device: call() or took)
    monkeypatch.setattr(timing.torch.cuda, "synchronize", lambda: None)
    calls = [lambda index=index: recorded.append(index) for index in range(4)]
    assert timing.time_graph(calls, seconds=0.04) == Timing(250 * took, 250 * took, 250 * took, samples)
    assert recorded == [0, 1, 2, 3] and len(played) == samples + 2


def test_a_right_result_is_timed():
    row = measure("a", lambda: 1e-4, 1e-3, lambda: TIMED)
    assert (row.status, row.error, row.median) == ("timed", 1e-4, 10.0)


@pytest.mark.parametrize("error", (2e-3, math.inf, math.nan))
def test_a_wrong_result_gets_no_time(error: float):
    row = measure("a", lambda: error, 1e-3, lambda: pytest.fail("timed"))
    assert row.status == "failed" and row.timing is None
    assert "not timed" in row.detail


@pytest.mark.parametrize(("optional", "status"), ((False, "failed"), (True, "not run")))
def test_what_raises_says_why(optional: bool, status: str):
    def broken() -> float:
        raise RuntimeError("\nno such kernel\nmany more lines")

    row = measure("a", broken, 1e-3, lambda: TIMED, optional)
    assert (row.status, row.detail, row.timing) == (status, "RuntimeError: no such kernel", None)
