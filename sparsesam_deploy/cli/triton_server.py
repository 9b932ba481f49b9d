"""``sparsesam-export triton-server``: a repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ..errors import InvalidInput
from . import options

if TYPE_CHECKING:
    from ..serving.source import Platform

PLATFORMS = click.Choice(["tensorrt_plan", "onnxruntime"])


@click.command(
    "triton-server",
    short_help="Write a Triton Inference Server repository.",
    epilog="\b\nExample:\n  sparsesam-export triton-server engines/built/sam_h -o model_repository --instances 2",
)
@click.argument("folders", type=click.Path(path_type=Path), metavar="DIR...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Model repository to write into.",
)
@click.option(
    "--name",
    default="sam",
    show_default=True,
    help="Name of the model that clients ask; other models' names begin with it.",
)
@click.option("--version", type=click.IntRange(1), default=1, show_default=True, help="Version number of the models.")
@click.option(
    "--platform", type=PLATFORMS, default="tensorrt_plan", show_default=True, help="Backend that runs the encoder."
)
@click.option("--decoder-platform", type=PLATFORMS, help="Backend that runs the decoder.  [default: the encoder's]")
@click.option(
    "--device",
    type=click.Choice(["gpu", "cpu"]),
    default="gpu",
    show_default=True,
    help="Whether encoder and decoder run on GPUs or on the CPU; cpu needs --platform onnxruntime.",
)
@click.option(
    "--gpus", type=options.ListType(), metavar="0,1,...", help="Numbers of the GPUs to serve from.  [default: all]"
)
@click.option(
    "--instances",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Copies of encoder and decoder on each GPU, which work at the same time.",
)
@click.option(
    "--cpu-workers",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Processes that decode images, and as many that scale masks.",
)
@click.option(
    "--max-queue-delay-us",
    type=click.IntRange(0),
    help="Microseconds that an image waits for others to share its batch with.  [default: 2000]",
)
@click.option(
    "--no-cuda-graphs",
    is_flag=True,
    help="tensorrt_plan: launch the encoder's kernels one by one, not as a CUDA graph.",
)
@click.option(
    "--cache-mib",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Size of the server's response cache for NAME_embed, MiB; 0 is no cache.",
)
@click.option(
    "--registration-library",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Path of libsparsesam_plugins_register.so, where it is not in the first DIR.",
)
@options.as_json
def triton_server(
    folders: tuple[Path, ...],
    output: Path,
    gpus: tuple[str, ...] | None,
    platform: Platform,
    decoder_platform: Platform | None,
    no_cuda_graphs: bool,
    registration_library: Path | None,
    as_json: bool,
    **choices: Any,
) -> None:
    """Write a Triton Inference Server repository: image file and prompts in, masks out.

    Each DIR is a folder of `sparsesam-export build`. Several folders are one model built for several kinds of GPU: the
    server gives each GPU the engine that was built for it. Run the command again with another --name or --version to
    add to the repository.
    """
    from ..progress import Stages
    from ..serving.options import ServingOptions
    from ..serving.repository import write_repository

    chosen = ServingOptions(
        platform=platform,
        decoder_platform=decoder_platform or platform,
        gpus=_gpu_numbers(gpus or ()),
        cuda_graphs=not no_cuda_graphs,
        **choices,
    )
    written = write_repository(folders, output, chosen, Stages(Console(stderr=True)), registration_library)
    if as_json:
        click.echo(json.dumps(written.as_json(), indent=2))
        return
    batches = f"up to {written.max_batch_size} images" if written.max_batch_size else "none, one image at a time"
    click.echo(f"written to {output}: {', '.join(written.models)}, version {chosen.version}")
    click.echo(f"encoder batches: {batches}")
    for path in written.kept:
        click.echo(f"left as it is, though this release writes another: {path}")
    click.echo(f"\n{written.launch.container}\n\n{written.launch.build}\n{written.launch.docker}")


def _gpu_numbers(gpus: tuple[str, ...]) -> tuple[int, ...]:
    for gpu in gpus:
        if not gpu.strip().isdecimal():
            raise InvalidInput(f"--gpus {','.join(gpus)}: {gpu!r} is no GPU number; give for example 0,1.")
    return tuple(map(int, gpus))
