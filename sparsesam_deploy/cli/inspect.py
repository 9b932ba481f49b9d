"""``sparsesam-export inspect``: what a file says about itself."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from . import options
from .console import console, example, print_json


@click.command(
    short_help="Describe an ONNX file, engine or manifest.",
    epilog=example("sparsesam-export inspect engines/built/nano/manifest.json"),
)
@click.argument("path", type=click.Path(path_type=Path))
@options.as_json
def inspect(path: Path, as_json: bool) -> None:
    """Describe an exported ONNX file, an engine, a manifest, or a folder with them."""
    from ..inspect import describe

    found = describe(path)
    if as_json:
        print_json(found)
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in found.items():
        table.add_row(f"[bold]{name}[/]", escape(value if isinstance(value, str) else json.dumps(value)))
    console.print(table)
