"""Every kernel compiled for every GPU, on a machine that has none: registers, shared memory, spills.

``python -m benchmarks.kernel_resources --json docs/results/kernel_resources.json`` takes ten minutes on two cores; a
test holds the committed file to the kernels as they are. Exit 0: no attention kernel spills registers; 1: one does.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sparsesam_deploy import ops
from sparsesam_deploy.artifacts import output_file
from sparsesam_deploy.ops.ahead_of_time import (
    CAPABILITIES,
    Variant,
    attention_variants,
    compile_variant,
    routed_mlp_variants,
)
from sparsesam_deploy.ops.stripe_attention.triton import HEAD_DIMS
from sparsesam_deploy.parity.report import write_json
from sparsesam_deploy.provenance import Provenance

EMBED_DIMS = (192, 768, 1024, 1280)
OPS = Path(ops.__file__).parent
SOURCES = ("triton_language.py", "launch_settings.toml", "*/triton.py", "*/kernels/*.py")
"""What kernels are compiled from."""


@dataclass(frozen=True)
class Row:
    """One kernel on one GPU.

    ``stack`` is bytes per thread, spilled registers where it is not 0; ``matrix_units`` the instructions that multiply
    matrices, ``async_16_bytes`` whether keys and values are copied to shared memory 16 bytes at a time.
    """

    kernel: str
    width: int
    dtype: str
    compute_capability: str
    num_warps: int
    registers: int
    stack: int
    shared: int
    cubin_bytes: int
    matrix_units: tuple[str, ...]
    async_16_bytes: bool


def resources(dtype: str, job: tuple[str, str, int, int]) -> Row:
    """Compile one variant: its family, GPU, width and number in the family."""
    family, capability, width, index = job
    variant = variants(family, width)[index]
    compiled = compile_variant(variant, capability, dtype)
    units = re.findall(r"\b(?:wgmma\.mma_async|tcgen05\.mma|mma\.sync)", compiled.ptx)
    return Row(
        variant.name,
        width,
        dtype,
        capability,
        compiled.num_warps,
        compiled.registers,
        compiled.stack,
        compiled.shared,
        len(compiled.cubin),
        tuple(sorted(set(units))),
        "cp.async.cg.shared.global" in compiled.ptx,
    )


def sources_sha256() -> str:
    """Of the kernels' sources and launch settings, so that figures of other kernels are noticed."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in OPS.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def variants(family: str, width: int) -> list[Variant]:
    return attention_variants(width) if family == "attention" else routed_mlp_variants(width)


def jobs(capabilities: tuple[str, ...], head_dims: tuple[int, ...], embed_dims: tuple[int, ...]) -> Iterator:
    """What to compile, longest first."""
    widths = [("attention", width) for width in head_dims] + [("routed-mlp", width) for width in embed_dims]
    for family, width in widths:
        for index in range(len(variants(family, width))):
            yield from ((family, capability, width, index) for capability in reversed(capabilities))


@click.command()
@click.option("--capability", "capabilities", multiple=True, default=CAPABILITIES, help="GPU such as 9.0; repeatable.")
@click.option("--head-dim", "head_dims", type=int, multiple=True, default=HEAD_DIMS, help="Of attention; repeatable.")
@click.option("--embed-dim", "embed_dims", type=int, multiple=True, default=EMBED_DIMS, help="Of the routed MLP.")
@click.option("--dtype", type=click.Choice(("fp16", "bf16")), default="fp16", show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), required=True, help="Where the results go.")
def main(
    capabilities: tuple[str, ...], head_dims: tuple[int, ...], embed_dims: tuple[int, ...], dtype: str, path: Path
) -> None:
    """Compile the kernels and say what they take."""
    todo = list(jobs(capabilities, head_dims, embed_dims))
    with ProcessPoolExecutor() as pool:
        done = pool.map(partial(resources, dtype), todo)
        rows = list(track(done, total=len(todo), description="compiling", console=Console(stderr=True)))
    facts = {
        **Provenance.here().model_dump(),
        "sources_sha256": sources_sha256(),
        "kernels": [asdict(row) for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with output_file(path) as partial_file:
        write_json(partial_file, facts)
    columns = ("kernel", "width", "GPU", "warps", "registers", "stack", "shared", "matrix units")
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for row in rows:
        cells = (row.kernel, row.width, row.compute_capability, row.num_warps, row.registers, row.stack, row.shared)
        table.add_row(*map(str, cells), " ".join(row.matrix_units))
    Console().print(table)
    spilled = [row for row in rows if row.stack and row.width in head_dims]
    for row in spilled:
        click.echo(f"spills: {row.kernel} of head_dim {row.width} on {row.compute_capability}", err=True)
    sys.exit(bool(spilled))


if __name__ == "__main__":
    main()
