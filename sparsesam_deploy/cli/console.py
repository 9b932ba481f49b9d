"""What the commands print, and to where: results on stdout, progress on stderr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

progress_console = Console(stderr=True)
console = Console()


def example(text: str) -> str:
    """The epilogue of a command's help."""
    return f"\b\nExample:\n  {text}"


def print_json(value: Any) -> None:
    """The one JSON document of ``--json``."""
    click.echo(json.dumps(value, indent=2, default=str))


def in_words(figures: dict[str, float]) -> str:
    """``{"mlp": 0.5}`` as ``mlp 0.5``."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())


def finish(report: Any, junit: Path | None) -> int:
    """Write a parity report's JUnit XML if it is asked for; the exit code."""
    from ..artifacts import output_file

    if junit is not None:
        with output_file(junit) as partial:
            partial.write_bytes(report.junit())
    return 0 if report.passed else 1
