"""``sparsesam-export tune-kernels``: launch settings measured on the GPU that is here."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .console import console, example, print_json, progress_console


@click.command(
    "tune-kernels",
    short_help="Measure how the GPU kernels are best launched here.",
    epilog=example("sparsesam-export tune-kernels --model vit_h --output launch_settings.toml"),
)
@options.tuned_models
@options.launch_table
@options.as_json
def tune_kernels(models: tuple[str, ...], output: Path, as_json: bool) -> int:
    """Measure how the GPU kernels are best launched on this machine's GPU, and write a table of it.

    Every candidate is checked against PyTorch, then timed on an encoder's real shapes at density 0.4. A table that is
    there already keeps its entries for other GPUs and other models.
    """
    from ..kernel_tuning import tuning
    from ..progress import Stages

    report = tuning.tune_kernels(models, output, Stages(progress_console))
    if as_json:
        print_json(report.as_json())
    else:
        report.print(console)
    return 0 if report.passed else 1
