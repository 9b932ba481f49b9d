"""``sparsesam-export``: the commands, and their exceptions as one line and an exit code.

Heavy imports happen inside the commands.
"""

from __future__ import annotations

import sys

import click

from ..errors import SparseSamError
from .benchmark import benchmark
from .build import build
from .console import print_json
from .doctor import doctor
from .engine import engine
from .evaluate import evaluate
from .inspect import inspect
from .onnx import export_onnx
from .plugin_path import plugin_path
from .triton_server import triton_server
from .tune import tune
from .tune_kernels import tune_kernels
from .verify import verify

INTERRUPTED = 130
OUT_OF_MEMORY = ("allocate memory", "out of memory")
"""How torch says so, of the machine's memory and of the GPU's."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="sparsesam-deploy")
def cli() -> None:
    """Put a sparse Segment Anything encoder into production: checkpoint to ONNX to TensorRT, with proof.

    Exit codes: 0 ok, 1 a check failed, 2 unusable input, 3 something is missing on this machine.
    """


for command in (
    *(build, export_onnx, engine, verify, inspect, doctor),
    *(benchmark, evaluate, tune, tune_kernels, triton_server, plugin_path),
):
    cli.add_command(command)


def main() -> None:
    """Entry point: the project's exceptions become one line on stderr and an exit code."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        _fail(error.format_message(), error.exit_code)
    except SparseSamError as error:
        click.echo(f"error: {error}", err=True)
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo(
            "interrupted; no half-written file was left. When repeated, evaluate and tune go on where they stopped.",
            err=True,
        )
        _fail("interrupted", INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        words = "out of memory; free memory (see `sparsesam-export doctor`), or choose a smaller model or batch."
        click.echo(f"error: {words}", err=True)
        _fail(words, 3)


def _fail(message: str, exit_code: int) -> None:
    if "--json" in sys.argv:
        print_json({"error": message, "exit_code": exit_code})
    sys.exit(exit_code)
