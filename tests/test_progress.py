"""Stages record time and the true peak of memory, also inside calls that hold the interpreter lock."""

import ctypes
import time

from rich.console import Console

from sparsesam_deploy.progress import Stages


def test_peak_of_a_short_allocation_is_seen():
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests freed is at hand otherwise, and nothing would grow
    stages = Stages(Console(quiet=True))
    with stages("small"):
        pass
    with stages("large"):
        content = b"x" * (1 << 29)  # made, filled and dropped under the interpreter lock
        del content
    small, large = stages.records
    assert 450 < large.peak_mib - small.peak_mib < 700


def test_time_is_wall_time_and_failed_stages_leave_no_record():
    stages = Stages(Console(quiet=True))
    with stages("sleep") as advance:
        advance(0.5, "half way")
        time.sleep(0.2)
    assert [record.name for record in stages.records] == ["sleep"] and 0.2 <= stages.records[0].seconds < 1.0
    try:
        with stages("fails"):
            raise ValueError
    except ValueError:
        pass
    assert len(stages.records) == 1
