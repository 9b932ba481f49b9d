"""The image encoder on a CPU beside its peers: what sparsity, the runtime and the export are each worth.

    python -m benchmarks.cpu_speed --json docs/results/cpu.json --plot docs/cpu_speed.png
    python -m benchmarks.cpu_speed vit_h --only segment_anything --only 'default, ONNX Runtime'

Float32, one image. The encoders take turns, so that a busy moment of the machine meets all of them. Each turn starts
a process, computes twice without a clock and once with it: one encoder is in memory at a time, and none profits from
where another process happened to lie. Each is compared with float32 PyTorch before it is timed.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cpu_contenders import Task, serve
from benchmarks.random_weights import save_random_checkpoint
from benchmarks.results import progress, save
from sparsesam_deploy.export.encoder import export_encoder
from sparsesam_deploy.export.options import ExportOptions
from sparsesam_deploy.model.checkpoint import NANO_CHECKPOINT, LoadedSam, load_checkpoint
from sparsesam_deploy.model.config import DENSE, FAMILIES, IMAGE_SIZE, PRESETS, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.parity.metrics import relative_l2
from sparsesam_deploy.parity.samples import shipped_samples
from sparsesam_deploy.provenance import Provenance
from sparsesam_deploy.recipe import ExportRecipe

EAGER, TRANSFORMERS = "segment_anything", "transformers"
PLAIN = "segment_anything, plain export, ONNX Runtime"
PEERS = ("openvino", "transformers")
"""Packages that take part beside those of every result."""
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
TOLERANCE = 1e-3
"""Relative, in L2: float32 differs by 1e-6, and one near-tie of a routing that is decided otherwise by some 1e-4."""


@dataclass(frozen=True)
class Row:
    """One encoder: ``status`` is timed, failed or not installed; times are milliseconds, ``samples`` in turn order.

    ``products_ms`` is the sum of its own matrix products, which no encoder of this kind can be faster than. ``density``
    is that of attention and MLPs where they are the same, ``mlp_density`` the mean over blocks.
    """

    family: str
    name: str
    status: str
    detail: str = ""
    error: float | None = None
    median_ms: float | None = None
    samples: tuple[float, ...] = ()
    products_ms: float | None = None
    peak_mib: int | None = None
    density: float | None = None
    mlp_density: float = 1.0


def sparsities(depth: int) -> dict[str, SparsityConfig]:
    """Ours, by name."""
    tuned = ExportRecipe.merge(Path("nano-tuned"), {}).sparsity
    stretched = {
        name: tuple(densities[index * len(densities) // depth] for index in range(depth))
        for name in ("attention_density", "mlp_density", "windowed_density")
        if isinstance(densities := getattr(tuned, name), tuple)
    }
    return {
        "density 1": DENSE,
        "density 0.4": SparsityConfig(0.4, 0.4),
        "default": PRESETS["default"],
        "nano-tuned": SparsityConfig(**stretched, windowed_routing=tuned.windowed_routing),
    }


def load(family: str, folder: Path) -> tuple[LoadedSam, Path]:
    """The shipped model, or one of random weights; and the checkpoint it lies in."""
    path = NANO_CHECKPOINT
    if family != "nano":
        path = folder / f"{family}.safetensors"
        save_random_checkpoint(path, family)
    return load_checkpoint(path), path


def export_plainly(loaded: LoadedSam, path: Path) -> None:
    """segment_anything's encoder by ``torch.onnx.export`` alone, which is what other exporters do."""
    image = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    torch.onnx.export(
        loaded.sam.image_encoder, (image,), path, dynamo=True, input_names=["image"], external_data=True, verbose=False
    )


class Bench:
    """Everything about one family: files, references, processes."""

    def __init__(self, family: str, folder: Path, threads: int, only: Sequence[str]) -> None:
        self.family, self.folder, self.threads, self.only = family, folder, threads, only
        self.loaded, self.checkpoint = load(family, folder)
        self.image = shipped_samples()[0].preprocessed().tensor
        self.image_file = folder / "image.npy"
        np.save(self.image_file, self.image.numpy())

    def tasks(self) -> Iterator[tuple[str, Task, SparsityConfig]]:
        """Name, what to run, and what it must equal; files are written on the way."""
        config = self.loaded.config

        def task(library: str, file: Path) -> Task:
            return Task(library, file, config, self.threads)

        yield EAGER, task("torch", self.checkpoint), DENSE
        yield TRANSFORMERS, task("transformers", self.checkpoint), DENSE
        if self.wanted(PLAIN):
            export_plainly(self.loaded, self.folder / "plain.onnx")
        yield PLAIN, task("onnxruntime", self.folder / "plain.onnx"), DENSE
        for name, sparsity in sparsities(config.depth).items():
            for library, runtime in RUNTIMES.items():
                file = self.folder / f"{name}, {library}.onnx"
                if self.wanted(f"{name}, {runtime}"):
                    encoder = SparseSamEncoder(self.loaded.sam.image_encoder, config, sparsity).eval()
                    options = ExportOptions("fp32", inline=library == "openvino")
                    export_encoder(encoder, self.loaded, file, options)
                yield f"{name}, {runtime}", task(library, file), sparsity

    def wanted(self, name: str) -> bool:
        return not self.only or name in self.only

    @torch.inference_mode()
    def reference(self, sparsity: SparsityConfig) -> np.ndarray:
        """segment_anything's own embeddings where nothing is thinned, else those of our encoder in PyTorch."""
        stock = self.loaded.sam.image_encoder
        encoder = stock if sparsity == DENSE else SparseSamEncoder(stock, self.loaded.config, sparsity).eval()
        return encoder(self.image).numpy()

    def run(self, repeats: int) -> list[Row]:
        """Compare and profile all, then let them take turns ``repeats`` times."""
        rows: dict[str, Row] = {}
        references: dict[SparsityConfig, np.ndarray] = {}
        samples: dict[str, list[float]] = {}
        tasks: dict[str, Task] = {}
        for name, task, sparsity in self.tasks():
            if not self.wanted(name):
                continue
            progress(f"{self.family}: {name}")
            if find_spec(task.library) is None:
                rows[name] = Row(self.family, name, "not installed")
                continue
            if sparsity not in references:
                references[sparsity] = self.reference(sparsity)
            with process(task, self.image_file) as line:
                rows[name] = self.compared(name, line.recv(), references[sparsity], sparsity)
                if rows[name].status == "timed":
                    rows[name] = replace(rows[name], products_ms=profiled(line))
                    tasks[name], samples[name] = task, []
        for turn in range(repeats):
            for name, task in tasks.items():
                progress(f"{self.family}: turn {turn + 1} of {repeats}: {name}")
                with process(task, self.image_file) as line:
                    line.recv()
                    samples[name].append(round(ask(line, "time"), 1))
                    peak = max(rows[name].peak_mib or 0, int(ask(line, "memory")))
                rows[name] = replace(rows[name], peak_mib=peak)
        for name, times in samples.items():
            median = round(statistics.median(times), 1)
            rows[name] = replace(rows[name], median_ms=median, samples=tuple(times))
        return list(rows.values())

    def compared(
        self, name: str, output: np.ndarray | Exception, expected: np.ndarray, sparsity: SparsityConfig
    ) -> Row:
        if isinstance(output, Exception):
            status = "not installed" if isinstance(output, ImportError) else "failed"
            return Row(self.family, name, status, str(output).partition("\n")[0])
        error, mlp = relative_l2(output, expected), sparsity.mlp_density
        if not error <= TOLERANCE:
            return Row(self.family, name, "failed", f"relative error {error:.1e} is above {TOLERANCE:.0e}", error)
        mean = statistics.mean(mlp) if isinstance(mlp, tuple) else mlp
        even = mlp if isinstance(mlp, float) and sparsity.attention_density == mlp else None
        return Row(self.family, name, "timed", "", error, density=even, mlp_density=round(mean, 3))


@contextmanager
def process(task: Task, image_file: Path) -> Iterator[Connection]:
    """A contender's process; its end of the line answers once it has computed for the first time."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=serve, args=(task, image_file, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        yield ours
    finally:
        child.kill()
        child.join()


def profiled(line: Connection) -> float | None:
    """Milliseconds of matrix products; None where the process does not survive its library's profiler."""
    try:
        return round(ask(line, "products"), 1)
    except EOFError:
        return None


def ask(line: Connection, what: str) -> float:
    line.send(what)
    return line.recv()


def with_ratios(rows: Sequence[Row]) -> list[dict]:
    """``speed_up`` over segment_anything and ``over_density_1`` of the same runtime, as medians of ratios turn by turn;
    ``of_products`` is time over the floor."""
    by_name = {(row.family, row.name): row for row in rows}

    def ratio(base: Row | None, row: Row) -> float | None:
        if base is None or not base.samples or not row.samples:
            return None
        return round(statistics.median(a / b for a, b in zip(base.samples, row.samples, strict=True)), 2)

    results = []
    for row in rows:
        _, _, runtime = row.name.partition(", ")
        dense = by_name.get((row.family, f"density 1, {runtime}"))
        results.append(
            {
                **asdict(row),
                "speed_up": ratio(by_name.get((row.family, EAGER)), row),
                "over_density_1": ratio(dense, row),
                "of_products": round(row.median_ms / row.products_ms, 2) if row.products_ms and row.median_ms else None,
            }
        )
    return results


def table(rows: Sequence[dict]) -> Table:
    """One line an encoder."""
    headings = ("model", "encoder", "ms", "speed-up", "of density 1", "products ms", "of products", "MiB", "error")
    made = Table(*headings, title="image encoder on the CPU, float32, one image", title_justify="left", box=None)
    for row in rows:
        place = row["family"], row["name"]
        if row["status"] != "timed":
            made.add_row(*place, row["status"], row["detail"])
            continue
        speed_up, over_dense, of_products = (
            f"{row[name]:.2f}x" if row[name] else "" for name in ("speed_up", "over_density_1", "of_products")
        )
        made.add_row(
            *place,
            f"{row['median_ms']:.0f}",
            speed_up,
            over_dense,
            f"{row['products_ms']:.0f}" if row["products_ms"] else "",
            of_products,
            str(row["peak_mib"]),
            f"{row['error']:.0e}",
        )
    return made


@click.command(help=__doc__.splitlines()[0])
@click.argument("families", nargs=-1, type=click.Choice(list(FAMILIES)))
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Turns of every encoder.")
@click.option("--only", multiple=True, metavar="NAME", help="An encoder as the table calls it; repeatable.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Where the results go.")
@click.option("--plot", type=click.Path(path_type=Path), help="A picture of time against density.")
def main(
    families: tuple[str, ...], threads: int, repeats: int, only: tuple[str, ...], path: Path | None, plot: Path | None
) -> None:
    torch.set_num_threads(threads)
    provenance = Provenance.here().model_dump()
    provenance["versions"] |= {name: version(name) for name in PEERS if find_spec(name)}
    rows: list[Row] = []
    for family in families or ("nano", "vit_b"):
        with tempfile.TemporaryDirectory() as folder:
            rows += Bench(family, Path(folder), threads, only).run(repeats)
        results = {"provenance": provenance, "threads": threads, "rows": with_ratios(rows)}
        if path:
            save(path, results)
    if plot:
        from benchmarks.cpu_plot import draw

        draw(results, plot)
    Console(width=150).print(table(results["rows"]))
    raise SystemExit(any(row.status == "failed" for row in rows))


if __name__ == "__main__":
    main()
