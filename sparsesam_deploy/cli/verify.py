"""``sparsesam-export verify``: exported files and engine against PyTorch."""

from __future__ import annotations

from pathlib import Path

import click

from ..export.weights import ModelName
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
    help="Also draw this PNG: dense masks, sparse masks and kept tokens.",
)
@options.as_json
def verify(
    folder: Path,
    model: ModelName | None,
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
    from ..engines.folder import BuildFolder
    from ..export.weights import Weights
    from ..parity.overlay import draw_overlay
    from ..parity.verify import Verifier
    from ..progress import Stages

    weights = Weights(model, checkpoint)
    weights.check_given()
    build, manifest = BuildFolder.of(folder), None
    if build.manifest_path.exists():  # an export has none
        manifest = build.read_unjudged()  # to judge a build anew, whatever it was found to be
        build.check_sources(manifest)
        build.check_engines(manifest)
    samples, stages = read_samples(images), Stages(progress_console)
    with stages("load checkpoint"):
        loaded = weights.load()
    with stages("verify") as advance:
        verifier = Verifier(loaded, build.encoder_onnx, build.decoder_onnx, build.path, manifest)
        report = verifier(samples, advance, min_dense_iou)
    if overlay is not None:
        with output_file(overlay) as partial:
            draw_overlay(verifier, partial)
    if as_json:
        print_json(report.as_json())
    else:
        report.print(console)
    return finish(report, junit)
