"""Where, when and of what a result was made."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from datetime import datetime, timezone

import torch

from ...export.metadata import package_versions
from ...model.checkpoint import LoadedSam
from ..report.records import Provenance


class Clock:
    """Started when the work starts."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def provenance(self, loaded: LoadedSam, seed: int, device: torch.device) -> Provenance:
        """What a reader needs to get the same numbers again."""
        machine = {
            "platform": platform.platform(),
            "processor": f"{os.cpu_count()} x {_processor()}",
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        }
        return Provenance(
            command=shlex.join(["sparsesam-export", *sys.argv[1:]]),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            model=loaded.source,
            checkpoint_sha256=loaded.sha256,
            versions=package_versions(),
            machine=machine,
            seed=seed,
            seconds=round(time.monotonic() - self._start, 1),
        )


def _processor() -> str:
    """Its name where the system tells it; Linux does in a file."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "processor")
    except OSError:
        return platform.processor() or platform.machine()
