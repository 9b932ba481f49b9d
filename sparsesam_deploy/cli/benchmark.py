"""``sparsesam-export benchmark``: how fast a build is here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from ..errors import InvalidInput
from . import options

if TYPE_CHECKING:
    from ..runtime.loading import RuntimeName


class SizesType(options.ParamType):
    """Batch sizes separated by commas."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        parts = value.split(",")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is no list of batch sizes; give for example 1,4.", param, ctx)
        return tuple(int(part) for part in parts)


@click.command(
    short_help="Measure how fast a build is here.",
    epilog="\b\nExample:\n  sparsesam-export benchmark engines/built/nano --batch 1 --target-ms 50",
)
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--runtime",
    type=click.Choice(["tensorrt", "tensorrt-rtx", "onnxruntime", "openvino", "torch"]),
    help="What runs the encoder.  [default: the build's engine]",
)
@click.option(
    "--device",
    help="Device to run on: cpu, cuda or cuda:1; onnxruntime and torch run on either and must be told.  [default: "
    "cuda for engines, cpu for openvino]",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Weights file for --runtime torch, where it is neither in DIR nor in the current folder.",
)
@click.option(
    "--batch",
    "batches",
    type=SizesType(),
    metavar="N,...",
    help="Batch sizes to time, separated by commas.  [default: the build's smallest]",
)
@click.option(
    "--iterations", type=click.IntRange(1), default=50, show_default=True, help="Timed calls for each batch size."
)
@click.option("--cuda-graph", is_flag=True, help="Record the engine, or PyTorch's kernels, as a CUDA graph to replay.")
@click.option(
    "--target-ms",
    type=options.FiniteRange(0, min_open=True),
    help="Time limit: exit 1 where the median call of a batch size takes more milliseconds than this.",
)
@options.as_json
def benchmark(
    folder: Path,
    runtime: RuntimeName | None,
    device: str | None,
    checkpoint: Path | None,
    batches: tuple[int, ...] | None,
    iterations: int,
    cuda_graph: bool,
    target_ms: float | None,
    as_json: bool,
) -> int:
    """Time the image encoder of the build in DIR, call after call, with the images on the device already.

    With --target-ms the exit code is 1 when the median (p50) of any batch size takes longer.
    """
    from ..progress import Stages
    from ..runtime.loading import load

    stages = Stages(Console(stderr=True))
    with stages("load"):
        encoder = load(folder, runtime, device, cuda_graph=cuda_graph, checkpoint=checkpoint)
    sizes = batches or (encoder.batch.min,)
    if outside := [size for size in sizes if not encoder.batch.min <= size <= encoder.batch.max]:
        raise InvalidInput(
            f"batch {outside[0]} is outside this build's {encoder.batch.min} to {encoder.batch.max}; leave it out, or "
            "build with another --batch."
        )
    results = []
    for size in sizes:
        with stages(f"measure batch {size}") as advance:
            results.append(encoder.measure(size, iterations, advance))
    too_slow = [result for result in results if target_ms is not None and result.p50 > target_ms]
    if as_json:
        document = {
            "passed": not too_slow,
            "kernels": encoder.kernels,
            "iterations": iterations,
            "target_ms": target_ms,
            "results": [result.as_json() for result in results],
        }
        click.echo(json.dumps(document, indent=2))
        return 1 if too_slow else 0
    console, table = Console(), Table(title=encoder.kernels)
    for name in ("batch", "p50 ms", "p90 ms", "p99 ms", "images/s"):
        table.add_column(name, justify="right")
    for result in results:
        times = (result.p50, result.p90, result.p99, result.images_per_second)
        table.add_row(str(result.batch), *(f"{value:.2f}" for value in times))
    console.print(table)
    for result in too_slow:
        console.print(
            f"batch {result.batch}: the median call took {result.p50:.2f} ms, over the {target_ms:g} ms asked"
        )
    return 1 if too_slow else 0
