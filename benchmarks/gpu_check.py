"""Everything that needs a GPU, in one command: the reference on CUDA, and every builder's engine against PyTorch.

Run by ``make gpu-check``. Prints a short table last, writes JSON; exit 0 nothing failed (what cannot run here, such as
TensorRT-RTX on Hopper, is listed as not run), 1 a check failed, 3 no GPU.
"""

from __future__ import annotations

import multiprocessing
import platform
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import get_args

import click
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.provenance import commit
from sparsesam_deploy.artifacts import output_file
from sparsesam_deploy.engines.build import build
from sparsesam_deploy.engines.manifest import BuilderName
from sparsesam_deploy.engines.options import EngineOptions
from sparsesam_deploy.engines.parity import stage_errors
from sparsesam_deploy.engines.report import write_json
from sparsesam_deploy.engines.samples import shipped_samples
from sparsesam_deploy.engines.tolerance import TOLERANCES
from sparsesam_deploy.errors import EnvironmentProblem, SparseSamError
from sparsesam_deploy.export.encoder import OUTPUT, stream_names
from sparsesam_deploy.export.recipe import ExportRecipe
from sparsesam_deploy.model.attention import ImageState
from sparsesam_deploy.model.checkpoint import load_nano
from sparsesam_deploy.model.config import PRESETS
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.progress import Stages


@dataclass(frozen=True)
class Outcome:
    """One check: ``status`` is passed, failed or not run."""

    check: str
    status: str
    detail: str


@torch.inference_mode()
def reference_on(device: str) -> Iterator[Outcome]:
    """The PyTorch encoder on ``device``, TF32 off, judged stage by stage as a float32 ONNX file is."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    loaded, image = load_nano(), shipped_samples()[0].preprocessed().tensor
    for name, preset in PRESETS.items():
        encoder, state = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, preset).to(device), ImageState()
        streams = list(encoder.streams(image.to(device), state))
        found = dict(zip(stream_names(encoder.config.depth), streams, strict=True))
        found |= {OUTPUT: encoder.finish(streams[-1]), **state.decisions}
        outputs = {key: value.cpu().numpy() for key, value in found.items()}
        worst, error = max(stage_errors(encoder.cpu(), image, outputs), key=lambda stage: stage[1])
        status = "passed" if error <= TOLERANCES["fp32"].block else "failed"
        yield Outcome(f"reference on {device}, {name}", status, f"worst stage {worst}, relative L2 {error:.1e}")


def engines() -> Iterator[Outcome]:
    """Every builder's engines, each builder in a process of its own: polygraphy serves one runtime a process."""
    context = multiprocessing.get_context("spawn")
    for builder in get_args(BuilderName):
        with ProcessPoolExecutor(1, context) as process:
            yield from process.submit(engines_of, builder).result()


def engines_of(builder: BuilderName) -> list[Outcome]:
    """The nano model's engines, run on this GPU and judged by ``verify``'s thresholds."""
    return [engine_outcome(builder, dtype) for dtype in ("fp32", "fp16", "bf16")]


def engine_outcome(builder: BuilderName, dtype: str) -> Outcome:
    name = f"{builder} engine, {dtype}"
    recipe = ExportRecipe(model="nano", dtype=dtype, builder=builder)
    try:
        with tempfile.TemporaryDirectory() as folder:
            stages = Stages(Console(stderr=True))
            report = build(recipe, Path(folder), EngineOptions(), shipped_samples(), stages).report
    except EnvironmentProblem as problem:
        return Outcome(name, "not run", str(problem))
    except SparseSamError as error:
        return Outcome(name, "failed", str(error))
    if not report.engine.startswith("run: "):
        return Outcome(name, "not run", report.engine.removeprefix("not run: "))
    worst = max(image.engine.relative_l2 for image in report.images)
    return Outcome(name, "passed" if report.passed else "failed", f"relative L2 {worst:.1e}")


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    return {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
        "commit": commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


@click.command()
@click.option("--json", "path", type=click.Path(path_type=Path), required=True, help="Where the results go.")
def main(path: Path) -> None:
    """Run every check that needs a GPU."""
    if not torch.cuda.is_available():
        click.echo("error: no CUDA device was found; run this on a machine with a GPU.", err=True)
        sys.exit(3)
    outcomes = [*reference_on("cuda"), *engines()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with output_file(path) as partial:
        write_json(partial, {"machine": machine(), "checks": [asdict(outcome) for outcome in outcomes]})
    table = Table(title=f"{torch.cuda.get_device_name()}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for outcome in outcomes:
        table.add_row(outcome.check, outcome.status, outcome.detail)
    Console().print(table)
    sys.exit(any(outcome.status == "failed" for outcome in outcomes))


if __name__ == "__main__":
    main()
