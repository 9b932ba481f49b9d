"""Benchmarks on the CPU: kernels interpreted in large blocks, and a clock that tells one time."""

from __future__ import annotations

import pytest

from benchmarks import timing
from tests.ops.conftest import one_thread  # noqa: F401  here too
from tests.ops.kernels import launch_in_blocks


@pytest.fixture
def pretended_clock(monkeypatch, tmp_path) -> None:
    """Every call takes 1000 us and one MiB, and is not made: what is compared before runs."""
    timed = timing.Timing(1000.0, 990.0, 1010.0, 5)
    monkeypatch.setattr(timing, "time_graph", lambda calls, seconds=0.0: timed)
    monkeypatch.setattr(timing, "time_eager", lambda call, seconds=0.0: timed)
    monkeypatch.setattr(timing, "peak_memory", lambda call: 1 << 20)
    launch_in_blocks(monkeypatch, tmp_path, 4096)
