"""Stages record time and the true peak of memory, also inside calls that hold the interpreter lock."""

import ctypes
import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from sparsesam_deploy import progress
from sparsesam_deploy.progress import Stages, counted


def test_peak_of_a_short_allocation_is_seen():
    """Of 512 MiB: a peak that was missed is next to nothing, a unit mistaken a factor of 1024.

    Not to the MiB, because a machine short of memory takes other pages from this process meanwhile.
    """
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests freed is at hand otherwise, and nothing would grow
    stages = Stages(Console(quiet=True))
    with stages("small"):
        pass
    with stages("large"):
        content = b"x" * (1 << 29)  # made, filled and dropped under the interpreter lock
        del content
    small, large = stages.records
    assert 256 < large.peak_mib - small.peak_mib < 1024


def test_time_is_wall_time_and_failed_stages_leave_no_record(monkeypatch):
    clock = iter((10.0, 12.25, 20.0))
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    stages = Stages(Console(quiet=True))
    with stages("load") as advance:
        advance(0.5, "half way")
    with pytest.raises(ValueError, match="no"), stages("fails"):
        raise ValueError("no")
    assert [(record.name, record.seconds) for record in stages.records] == [("load", 2.25)]


def test_a_long_count_says_how_fast_it_is_and_how_long_is_left(monkeypatch):
    """Four of ten images were done before; without a terminal a line comes every half minute."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    console = Console(file=io.StringIO(), width=100)
    with counted(console, "evaluate", 10, 4, "images") as advance:
        for count, seconds in ((5, 20.0), (6, 40.0), (10, 120.0)):
            now.seconds = seconds
            advance(count, "photo.png")
    assert console.file.getvalue().splitlines() == [
        "evaluate: 6 of 10, 0.05 images/s, about 1 min left",
        "evaluate: 10 of 10, 0.05 images/s, about 0 min left",
        "done evaluate                             120.0 s  0.05 images/s",
    ]
