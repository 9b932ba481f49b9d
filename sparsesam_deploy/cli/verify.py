"""``sparsesam-export verify``: exported files and engine against PyTorch."""

from __future__ import annotations

from pathlib import Path

import click

from ..optional import require
from . import options
from .console import console, example, finish, print_json, progress_console
from .options import read_samples


@click.command(
    short_help="Compare exported files and engine with PyTorch.",
    epilog=example("sparsesam-export verify engines/built/nano --model nano --images photos/ --junit parity.xml"),
)
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@options.weights
@options.check_choices
@click.option(
    "--overlay",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw dense masks, sparse masks and kept tokens as PNG.",
)
@options.as_json
def verify(
    folder: Path,
    model: str | None,
    checkpoint: Path | None,
    images: tuple[Path, ...],
    min_dense_iou: float | None,
    junit: Path | None,
    overlay: Path | None,
    as_json: bool,
) -> int:
    """Compare the files in DIR with the PyTorch model: block by block, embeddings, masks, and the engine on a GPU."""
    require("verify", "onnxruntime")
    if overlay is not None:
        require("--overlay", "matplotlib")
    from ..artifacts import output_file
    from ..engines.manifest import EngineManifest
    from ..export.recipe import ExportRecipe
    from ..parity.overlay import draw_overlay
    from ..parity.verify import Verifier
    from ..pipeline import DECODER, ENCODER, MANIFEST
    from ..progress import Stages

    weights = ExportRecipe.merge(None, {"model": model, "checkpoint": checkpoint})
    manifest = EngineManifest.read(folder / MANIFEST) if (folder / MANIFEST).exists() else None
    if manifest is not None:
        manifest.check_sources(folder)
        manifest.check(folder)
    samples, stages = read_samples(images), Stages(progress_console)
    with stages("load checkpoint"):
        loaded = weights.load()
    with stages("verify") as advance:
        verifier = Verifier(loaded, folder / ENCODER, folder / DECODER, folder, manifest)
        report = verifier(samples, advance, min_dense_iou)
    if overlay is not None:
        with output_file(overlay) as partial:
            draw_overlay(verifier, partial)
    if as_json:
        print_json(report.as_json())
    else:
        report.print(console)
    return finish(report, junit)
