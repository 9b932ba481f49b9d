"""Everything that needs a GPU, in one command: the reference on CUDA, and every builder's engine against PyTorch.

Run by ``make gpu-check``. Prints a short table last, writes JSON; exit 0 all passed, 1 a check failed, 3 no GPU.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from sparsesam_deploy.artifacts import output_file
from sparsesam_deploy.engines.build import build
from sparsesam_deploy.engines.metrics import relative_l2
from sparsesam_deploy.engines.options import EngineOptions
from sparsesam_deploy.engines.report import write_json
from sparsesam_deploy.engines.samples import shipped_samples
from sparsesam_deploy.errors import SparseSamError
from sparsesam_deploy.export.recipe import ExportRecipe
from sparsesam_deploy.model.checkpoint import load_nano
from sparsesam_deploy.model.config import PRESETS
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.progress import Stages

CUDA_LIMIT = 1e-5
"""Relative L2 between float32 on the CPU and on the GPU, TF32 off."""


@dataclass(frozen=True)
class Outcome:
    """One check: ``status`` is passed, failed or not run."""

    check: str
    status: str
    detail: str


def reference_on_cuda() -> Iterator[Outcome]:
    """The PyTorch encoder gives the same embeddings on both devices."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    loaded, image = load_nano(), shipped_samples()[0].preprocessed().tensor
    for name, preset in PRESETS.items():
        encoder = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, preset)
        with torch.inference_mode():
            expected = encoder(image).numpy()
            error = relative_l2(encoder.cuda()(image.cuda()).cpu().numpy(), expected)
            encoder.cpu()
        status = "passed" if error <= CUDA_LIMIT else "failed"
        yield Outcome(f"reference on CUDA, {name}", status, f"relative L2 {error:.1e}")


def engines(stages: Stages) -> Iterator[Outcome]:
    """Every builder's engine of the nano model, run on this GPU and judged by ``verify``'s thresholds."""
    for builder in ("tensorrt", "tensorrt-rtx"):
        for dtype in ("fp32", "fp16", "bf16"):
            name = f"{builder} engine, {dtype}"
            recipe = ExportRecipe(model="nano", dtype=dtype, builder=builder)
            try:
                with tempfile.TemporaryDirectory() as folder:
                    report = build(recipe, Path(folder), EngineOptions(), shipped_samples(), stages).report
            except SparseSamError as error:
                yield Outcome(name, "not run", str(error))
                continue
            if not report.engine.startswith("run: "):
                yield Outcome(name, "not run", report.engine.removeprefix("not run: "))
                continue
            worst = max(image.engine.relative_l2 for image in report.images)
            yield Outcome(name, "passed" if report.passed else "failed", f"relative L2 {worst:.1e}")


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
        "commit": commit,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


@click.command()
@click.option("--json", "path", type=click.Path(path_type=Path), required=True, help="Where the results go.")
def main(path: Path) -> None:
    """Run every check that needs a GPU."""
    if not torch.cuda.is_available():
        click.echo("error: no CUDA device was found; run this on a machine with a GPU.", err=True)
        sys.exit(3)
    stages = Stages(Console(stderr=True))
    parts: tuple[Callable[[], Iterator[Outcome]], ...] = (reference_on_cuda, lambda: engines(stages))
    outcomes = [outcome for part in parts for outcome in part()]
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
