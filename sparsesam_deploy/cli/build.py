"""``sparsesam-export build``: from a checkpoint to an engine, with proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..optional import require
from . import options
from .console import console, example, finish, in_words, print_json, progress_console
from .options import read_samples, require_builder


@click.command(
    short_help="Export, build the engine and prove it.",
    epilog=example("sparsesam-export build --model nano --builder tensorrt-rtx --output engines/built/nano"),
)
@options.export_choices
@options.engine_choices
@options.plugin_choices
@options.check_choices
@click.option("--overlay", is_flag=True, help="Also draw overlay.png: dense masks, sparse masks, kept tokens.")
@options.output
@options.as_json
def build(
    recipe: Path | None,
    output: Path,
    images: tuple[Path, ...],
    min_dense_iou: float | None,
    junit: Path | None,
    overlay: bool,
    plugin_library: Path | None,
    no_plugins: bool,
    as_json: bool,
    **choices: Any,
) -> int:
    """Export, build the engine and prove it: encoder.onnx, decoder.onnx, encoder.engine, manifest.json, parity.json."""
    from .. import pipeline as building
    from ..engines.folder import BuildFolder
    from ..plugin_library import choose_library
    from ..progress import Stages
    from ..recipe import ExportRecipe

    chosen = ExportRecipe.merge(recipe, choices)
    chosen.weights.check_given()
    builder = require_builder(chosen.builder)
    require("the proof of a build", "onnxruntime")
    if overlay:
        require("--overlay", "matplotlib")
    result = building.build(
        chosen,
        output,
        read_samples(images),
        Stages(progress_console),
        choose_library(builder, plugin_library, no_plugins),
        min_dense_iou,
        overlay,
    )
    place = output if result.report.passed else BuildFolder(output).rejected.path
    if as_json:
        print_json(
            {
                "passed": result.report.passed,
                "output": str(place),
                "manifest": result.manifest.model_dump(mode="json"),
                "parity": result.report.as_json(),
            }
        )
    else:
        result.report.print(console)
        nodes = sorted(set(result.manifest.audit.custom_nodes.values()))
        console.print(f"custom nodes: {' and '.join(nodes)}", highlight=False)
        console.print(f"effective density: {in_words(result.manifest.effective_density)}", highlight=False)
        for warning in result.manifest.warnings:
            console.print(f"{builder} warns: {warning}", highlight=False, markup=False, soft_wrap=True)
        console.print(f"written to {place}", highlight=False, markup=False, soft_wrap=True)
    return finish(result.report, junit)
