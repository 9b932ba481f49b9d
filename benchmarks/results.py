"""What benchmarks write: JSON that is complete or absent."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import click

from sparsesam_deploy.artifacts import output_file


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
