"""``sparsesam-export engine``: an engine from an exported encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..engines.options import BuilderName
from . import options
from .console import console, example, print_json, progress_console
from .options import require_builder


@click.command(
    short_help="Build an engine from an exported encoder.",
    epilog=example("sparsesam-export engine exported/encoder.onnx --builder tensorrt-rtx --output exported"),
)
@click.argument("encoder", type=click.Path(path_type=Path), metavar="ENCODER.ONNX")
@options.engine_choices
@options.plugin_choices
@options.output
@options.as_json
def engine(
    encoder: Path,
    builder: BuilderName | None,
    plugin_library: Path | None,
    no_plugins: bool,
    output: Path,
    as_json: bool,
    **choices: Any,
) -> None:
    """Build encoder.engine and manifest.json from an exported encoder."""
    from ..engines.options import EngineOptions
    from ..pipeline import build_engine_only
    from ..plugin_library import choose_library
    from ..progress import Stages

    named = require_builder(builder)
    library = choose_library(named, plugin_library, no_plugins)
    chosen = EngineOptions(**{name: value for name, value in choices.items() if value is not None})
    manifest = build_engine_only(encoder, output, named, chosen, library, Stages(progress_console))
    if as_json:
        print_json(manifest.model_dump(mode="json"))
    else:
        words = f"written to {output}: {manifest.engine.name}, {manifest.engine.bytes >> 20} MiB"
        console.print(words, highlight=False, markup=False, soft_wrap=True)
