"""The reference on CUDA, and every builder's engine, against PyTorch: does what we ship compute the same on this GPU?

    python -m checks.engine_checks --json engines/built/engine_checks.json

What needs a package that is not installed is not run, and says which.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import click
import torch
from rich.console import Console

from benchmarks.results import progress, save
from checks.outcome import Outcome
from sparsesam_deploy.errors import EnvironmentProblem, SparseSamError
from sparsesam_deploy.model.attention import ImageState
from sparsesam_deploy.model.config import PRESETS
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.parity.tolerance import TOLERANCES

KINDS = ("reference", "engines")


@torch.inference_mode()
def reference_on(device: str) -> Iterator[Outcome]:
    """The PyTorch encoder on ``device``, TF32 off, judged stage by stage as a float32 ONNX file is."""
    from sparsesam_deploy.export.encoder import OUTPUT, stream_names
    from sparsesam_deploy.model.checkpoint import load_nano
    from sparsesam_deploy.parity.blocks import stage_errors
    from sparsesam_deploy.parity.samples import shipped_samples

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
    from typing import get_args

    from sparsesam_deploy.engines.options import BuilderName

    context = multiprocessing.get_context("spawn")
    for builder in get_args(BuilderName):
        progress(f"engines: {builder}")
        with ProcessPoolExecutor(1, context) as process:
            yield from process.submit(engines_of, builder).result()


def engines_of(builder: str) -> list[Outcome]:
    """The nano model's engines, run on this GPU and judged by ``verify``'s thresholds."""
    return [engine_outcome(builder, dtype) for dtype in ("fp32", "fp16", "bf16")]


def engine_outcome(builder: str, dtype: str) -> Outcome:
    name = f"{builder} engine, {dtype}"
    try:
        from sparsesam_deploy.parity.samples import shipped_samples
        from sparsesam_deploy.pipeline import build
        from sparsesam_deploy.plugin_library import choose_library
        from sparsesam_deploy.progress import Stages
        from sparsesam_deploy.recipe import ExportRecipe

        library = choose_library(builder, None, without=False)
        recipe = ExportRecipe.of({"model": "nano", "dtype": dtype, "builder": builder})
        with tempfile.TemporaryDirectory() as folder:
            stages = Stages(Console(stderr=True))
            report = build(recipe, Path(folder), shipped_samples(), stages, library).report
    except (EnvironmentProblem, ImportError) as problem:
        return Outcome(name, "not run", str(problem))
    except SparseSamError as error:
        return Outcome(name, "failed", str(error))
    if not report.engine.startswith("run: "):
        return Outcome(name, "not run", report.engine.removeprefix("not run: "))
    worst = max(image.engine.relative_l2 for image in report.images)
    return Outcome(name, "passed" if report.passed else "failed", f"relative L2 {worst:.1e}")


def outcomes_of(name: str, checks: Callable[[], Iterator[Outcome]]) -> Iterator[Outcome]:
    """What ``checks`` finds; where it needs a package that is not installed, that it was not run."""
    try:
        yield from checks()
    except ImportError as problem:
        yield Outcome(name, "not run", str(problem))


@click.command(help=__doc__.splitlines()[0])
@click.option("--json", "path", type=click.Path(path_type=Path), required=True, help="Where the results go.")
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, default=KINDS, help="May be repeated.")
def main(path: Path, kinds: tuple[str, ...]) -> None:
    if not torch.cuda.is_available():
        click.echo("error: no CUDA device was found; run this on a machine with a GPU.", err=True)
        raise SystemExit(3)
    checks = {"reference": lambda: reference_on("cuda"), "engines": engines}
    found: list[Outcome] = []
    for kind in kinds:
        for outcome in outcomes_of(kind, checks[kind]):
            found.append(outcome)
            save(path, {"checks": [asdict(outcome) for outcome in found]})
    raise SystemExit(any(outcome.status == "failed" for outcome in found))


if __name__ == "__main__":
    main()
