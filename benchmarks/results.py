"""What benchmarks write: JSON that is complete or absent, and on which machine it was measured."""

from __future__ import annotations

import json
import math
import platform
import re
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.provenance import commit
from sparsesam_deploy.artifacts import output_file

UNKNOWN = "unknown"


def progress(words: str) -> None:
    """A line on stderr."""
    click.echo(words, err=True)


def save(path: Path, results: Any) -> None:
    """Write JSON under a temporary name and rename it; numbers that JSON does not know become null."""
    with output_file(path) as partial:
        partial.write_text(json.dumps(finite(results), indent=2) + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """``value`` with null for not-a-number and infinity."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def file_stem(gpu: str) -> str:
    """``NVIDIA H200`` -> ``h200``."""
    return re.sub(r"[^a-z0-9]+", "_", gpu.lower().removeprefix("nvidia ")).strip("_") or "gpu"


def machine(commit_name: str | None = None) -> dict[str, str]:
    """What figures were measured on; ``commit_name`` for copies of the tree that carry no git folder."""
    return {
        "gpu": torch.cuda.get_device_name(),
        "memory_gib": f"{torch.cuda.get_device_properties(0).total_memory / 2**30:.0f}",
        "driver": driver(),
        "cuda": str(torch.version.cuda),
        "torch": torch.__version__,
        "triton": package("triton"),
        "python": platform.python_version(),
        "commit": commit_name or checked_out_commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return found[0] if found else UNKNOWN


def checked_out_commit() -> str:
    try:
        return commit() or UNKNOWN
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
