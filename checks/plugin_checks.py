"""The TensorRT plugins on this GPU, without TensorRT: every block shape of every model against the PyTorch reference.

A host program drives them through the plugin interface alone, as TensorRT does: enqueue on a stream, replay of a CUDA
graph, two execution contexts at once; then the nano model's nodes under compute-sanitizer.

    cmake -S plugins -B build/plugins -DTENSORRT_INCLUDE_DIR=... -DSPARSESAM_PLUGIN_TESTS=ON
    cmake --build build/plugins
    python -m checks.plugin_checks --json plugin_checks.json
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click
import torch

from benchmarks.results import progress, save
from checks.outcome import Outcome
from checks.plugin_host import HOST, HostFailed, enqueue
from checks.plugin_nodes import Node, nodes
from sparsesam_deploy.model.config import FAMILIES

BUILD = Path(__file__).parents[1] / "build" / "plugins"
MODES = ("plain", "graph", "two")
TOLERANCE = {torch.float16: 1.5e-3, torch.bfloat16: 1e-2}
"""Relative L2 to the float32 reference, as of the kernels themselves."""
BATCH = 2
AT_ONCE = 4
"""Host programs that share the GPU."""


def node_outcome(build: Path, node: Node, tolerance: float, prefix: tuple[str, ...] = ()) -> tuple[str, float]:
    """What went wrong, empty where nothing did, and the largest error of any mode, context and output."""
    modes = ("plain",) if prefix else MODES
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = enqueue(build, node, modes, Path(folder), prefix)
    except HostFailed as failure:
        return f"{node.name}: {str(failure).splitlines()[-1]}", float("nan")
    errors = [(error, mode) for mode, contexts in found.items() for out in contexts for error in node.errors(out)]
    wrong = [f"{node.name}, {mode}: relative L2 {error:.1e}" for error, mode in errors if not error <= tolerance]
    return next(iter(wrong), ""), max(error for error, _ in errors)


def family_outcome(build: Path, family: str, dtype: torch.dtype, prefix: tuple[str, ...] = ()) -> Outcome:
    """All nodes of one model in one precision."""
    name = f"plugins {family}, {str(dtype).removeprefix('torch.')}{', compute-sanitizer' if prefix else ''}"
    progress(name)
    all_nodes = nodes(FAMILIES[family], dtype, BATCH, torch.device("cuda"))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        check = partial(node_outcome, build, tolerance=TOLERANCE[dtype], prefix=prefix)
        results = list(pool.map(check, all_nodes))
    wrong = [words for words, _ in results if words]
    if wrong:
        return Outcome(name, "failed", f"{len(wrong)} of {len(results)} nodes, first {wrong[0]}")
    return Outcome(name, "passed", f"{len(results)} nodes, relative L2 at most {max(e for _, e in results):.1e}")


def checks(build: Path) -> Iterator[Outcome]:
    if not (build / HOST).is_file():
        words = (
            f"no {build / HOST}: configure plugins/ with -DSPARSESAM_PLUGIN_TESTS=ON (TensorRT headers) and build it"
        )
        yield Outcome("plugins", "not run", words)
        return
    for family in FAMILIES:
        yield family_outcome(build, family, torch.float16)
    yield family_outcome(build, "vit_h", torch.bfloat16)
    sanitizer = shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin")
    if sanitizer is None:
        yield Outcome("plugins, compute-sanitizer", "not run", "compute-sanitizer is not on the PATH")
    else:
        command = (sanitizer, "--tool", "memcheck", "--report-api-errors", "no", "--error-exitcode", "99")
        yield family_outcome(build, "nano", torch.float16, command)


@click.command(help=__doc__.splitlines()[0])
@click.option("--build", type=click.Path(path_type=Path), default=BUILD, show_default=True, help="Built plugins.")
@click.option("--json", "path", type=click.Path(path_type=Path), required=True, help="Where the results go.")
def main(build: Path, path: Path) -> None:
    if not torch.cuda.is_available():
        click.echo("error: no CUDA device was found; run this on a machine with a GPU.", err=True)
        raise SystemExit(3)
    found: list[Outcome] = []
    for outcome in checks(build):
        found.append(outcome)
        save(path, {"checks": [asdict(outcome) for outcome in found]})
    raise SystemExit(any(outcome.status == "failed" for outcome in found))


if __name__ == "__main__":
    main()
