"""``sparsesam-export onnx``: the two ONNX files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options
from .console import console, example, print_json, progress_console


@click.command(
    "onnx", epilog=example("sparsesam-export onnx --checkpoint sam_vit_h_4b8939.pth --density 0.4 --output exported")
)
@options.export_choices
@options.output
@options.as_json
def export_onnx(recipe: Path | None, output: Path, as_json: bool, **choices: Any) -> None:
    """Export encoder.onnx and decoder.onnx only."""
    from ..artifacts import output_folder
    from ..engines.folder import BuildFolder
    from ..pipeline import export
    from ..progress import Stages
    from ..recipe import ExportRecipe

    chosen, stages = ExportRecipe.merge(recipe, choices), Stages(progress_console)
    chosen.weights.check_given()
    with output_folder(output) as folder:
        export(chosen, BuildFolder(folder), stages)
        names = sorted(file.name for file in folder.iterdir())
    if as_json:
        print_json({"output": str(output), "files": names, "stages": stages.as_dicts()})
    else:
        console.print(f"written to {output}: {', '.join(names)}", highlight=False, markup=False, soft_wrap=True)
