"""Stages record time and the true peak of memory, also inside calls that hold the interpreter lock."""

import ctypes
from types import SimpleNamespace

import pytest
from rich.console import Console

from sparsesam_deploy import progress
from sparsesam_deploy.progress import Stages


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
