"""What each way of thinning costs on the trained nano model: the tables of docs/accuracy.md.

    python -m benchmarks.accuracy --output /tmp/accuracy --json docs/results/accuracy_nano.json
    python -m benchmarks.accuracy --half-size --symmetries 4 --density 0.4 --row ... --output /tmp/half

Boxes, and centre points answered by SAM's single mask, on the twelve held-out scenes. Figures of the same
kind on 96 other scenes, from before this project, are printed beside.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import torch
from rich.console import Console

from benchmarks.scenes import HalfSize
from sparsesam_deploy.accuracy.data.coco import CocoDataset
from sparsesam_deploy.accuracy.data.mirrored import Mirrored
from sparsesam_deploy.accuracy.evaluation.judge import Judge
from sparsesam_deploy.accuracy.evaluation.prompts import parse_prompt
from sparsesam_deploy.accuracy.evaluation.run import DOCUMENT, evaluate
from sparsesam_deploy.accuracy.evaluation.scoring import Comparison
from sparsesam_deploy.accuracy.evaluation.variants import dense_variant, torch_variant
from sparsesam_deploy.accuracy.report.records import Evaluation, Interval, VariantResult
from sparsesam_deploy.artifacts import output_file
from sparsesam_deploy.model.checkpoint import LoadedSam, load_nano
from sparsesam_deploy.model.config import FAMILIES, SparsityConfig

HOLDOUT = Path(__file__).parents[1] / "tests" / "data" / "holdout"
NANO = FAMILIES["nano"]
CPU = torch.device("cpu")


def late(density: float) -> tuple[float, ...]:
    """The windowed blocks after the first global one, where the published rows route."""
    return tuple(density if block in NANO.routed_blocks else 1.0 for block in range(NANO.depth))


def windows(density: float) -> tuple[float, ...]:
    """Every windowed block."""
    return tuple(1.0 if block in NANO.global_blocks else density for block in range(NANO.depth))


def every(density: float) -> tuple[float, ...]:
    """Every block."""
    return (density,) * NANO.depth


def published_variants(density: float) -> dict[str, SparsityConfig]:
    """The variants that `PUBLISHED` has figures of, and others of the kind."""
    d = density
    return {
        "released code": SparsityConfig(d, d, d, "ranked", "skip-group-rank"),
        "ranked attention": SparsityConfig(d, 1.0, d, "ranked"),
        "ranked, global only": SparsityConfig(d, 1.0, order="ranked"),
        "interleaved, global only": SparsityConfig(d, 1.0, order="interleaved"),
        "lattice": SparsityConfig(d, 1.0),
        "skip, group rank": SparsityConfig(1.0, late(d), routing="skip-group-rank"),
        "skip, sobel": SparsityConfig(1.0, late(d), routing="skip-sobel"),
        "skip, static": SparsityConfig(1.0, late(d), routing="skip-static"),
        "share, variance": SparsityConfig(1.0, late(d), routing="share-variance"),
        "lattice + share, variance": SparsityConfig(d, late(d)),
    }


# (box, point, embedding error) on 96 images that are not in this repository, by variant and density.
PUBLISHED: dict[str, dict[float, tuple[float, float, float]]] = {
    "released code": {0.3: (-0.052, -0.066, 0.31), 0.4: (-0.041, -0.052, 0.29), 0.5: (-0.033, -0.034, 0.26)},
    "ranked attention": {0.3: (-0.004, -0.006, 0.071), 0.4: (-0.003, -0.006, 0.071), 0.5: (0.0, 0.001, 0.021)},
    "ranked, global only": {0.3: (-0.001, 0.002, 0.067), 0.4: (0.0, 0.0, 0.066), 0.5: (0.0, 0.001, 0.020)},
    "lattice": {0.3: (-0.001, -0.001, 0.019), 0.4: (-0.001, -0.001, 0.017), 0.5: (-0.001, -0.001, 0.013)},
    "skip, sobel": {0.3: (-0.039, -0.054, 0.30), 0.4: (-0.030, -0.043, 0.29), 0.5: (-0.023, -0.035, 0.26)},
    "skip, static": {0.3: (-0.038, -0.045, 0.23), 0.4: (-0.034, -0.046, 0.21), 0.5: (-0.027, -0.039, 0.19)},
    "share, variance": {0.3: (-0.014, -0.018, 0.078), 0.4: (-0.005, -0.008, 0.064), 0.5: (-0.003, -0.003, 0.052)},
    "lattice + share, variance": {
        0.3: (-0.015, -0.019, 0.081),
        0.4: (-0.006, -0.008, 0.067),
        0.5: (-0.004, -0.004, 0.055),
    },
}


def beyond() -> dict[str, SparsityConfig]:
    """On the lattice at 0.25: rows shared in more places than the published ones, and on one level more."""

    def rows(mlp: tuple[float, ...], attention: tuple[float, ...]) -> SparsityConfig:
        return SparsityConfig(0.25, mlp, attention, windowed_routing="share-variance")

    def quadtree(mlp: tuple[float, ...]) -> SparsityConfig:
        return SparsityConfig(0.25, mlp, routing="share-quadtree")

    return {
        "lattice 0.25": SparsityConfig(0.25, 1.0),
        "lattice 0.125": SparsityConfig(0.125, 1.0),
        "lattice 0.0625": SparsityConfig(0.0625, 1.0),
        **{f"late MLPs {d}": SparsityConfig(0.25, late(d)) for d in (0.4, 0.5, 0.6)},
        **{f"every MLP {d}": SparsityConfig(0.25, every(d)) for d in (0.4, 0.5, 0.6, 0.7)},
        **{f"late MLPs {d}, quadtree": quadtree(late(d)) for d in (0.3, 0.4)},
        **{f"every MLP {d}, quadtree": quadtree(every(d)) for d in (0.3, 0.4, 0.5)},
        **{f"late MLPs 0.4, late windows {d}": rows(late(0.4), late(d)) for d in (0.5, 0.4)},
        **{f"late MLPs 0.4, all windows {d}": rows(late(0.4), windows(d)) for d in (0.5, 0.4)},
        **{f"every MLP {d}, all windows 0.5": rows(every(d), windows(0.5)) for d in (0.6, 0.5)},
        "every MLP 0.6, all windows 0.4": rows(every(0.6), windows(0.4)),
    }


def comparison(loaded: LoadedSam, choices: dict[str, SparsityConfig]) -> Comparison:
    """Boxes and single masks of centre points, asked of each choice in plain PyTorch on the CPU."""
    dense = dense_variant(loaded, CPU)
    judge = Judge(loaded, dense.encode, [parse_prompt("box"), parse_prompt("center")], "single", CPU)
    return Comparison(dense, tuple(torch_variant(name, loaded, one, CPU) for name, one in choices.items()), judge)


def holdout(symmetries: int = 1, half_size: bool = False) -> Mirrored:
    """The twelve held-out scenes with their 61 objects."""
    scenes = CocoDataset(HOLDOUT / "instances.json", HOLDOUT)
    return Mirrored(HalfSize(scenes) if half_size else scenes, symmetries)


def markdown(found: Evaluation) -> str:
    """The table for docs/accuracy.md."""
    lines = [
        "| variant | linear layers | box | of 96 scenes | point | of 96 scenes | embedding error | of 96 scenes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(variant) for variant in found.variants[1:]]
    return "\n".join(lines)


def _line(variant: VariantResult) -> str:
    row, _, density = variant.name.rpartition(" ")
    published = PUBLISHED.get(row, {}).get(float(density)) if row in PUBLISHED else None
    box, point, error = ("", "", "") if published is None else (f"{value:.3g}" for value in published)
    changes = (_interval(score.iou_change) for score in variant.scores)
    of_box, of_point = changes
    cells = (variant.name, f"{variant.cost.gemm:.3f}", of_box, box, of_point, point)
    return f"| {' | '.join((*cells, f'{variant.embedding_error.mean:.3f}', error))} |"


def _interval(change: Interval) -> str:
    return f"{change.mean:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"


@click.command(help=__doc__.splitlines()[0])
@click.option("--density", "densities", type=float, multiple=True, default=(0.3, 0.4, 0.5), show_default=True)
@click.option("--symmetries", type=click.IntRange(1, 8), default=1, show_default=True, help="Mirrorings of each image.")
@click.option("--half-size", is_flag=True, help="Four scenes to a frame, each in its own pixels.")
@click.option("--row", "only", multiple=True, help="Only the row of this name, such as 'lattice 0.4'; repeatable.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for report and figures.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Where to put a copy of evaluation.json.")
def main(
    densities: tuple[float, ...],
    symmetries: int,
    half_size: bool,
    only: tuple[str, ...],
    output: Path,
    json_path: Path | None,
) -> None:
    choices = {f"{name} {d:g}": choice for d in densities for name, choice in published_variants(d).items()} | beyond()
    if unknown := set(only) - choices.keys():
        raise click.BadParameter(f"there is no row {unknown.pop()!r}; choose from {', '.join(choices)}.")
    choices = {name: choice for name, choice in choices.items() if name in only or not only}
    loaded = load_nano()
    found = evaluate(
        comparison(loaded, choices), loaded, holdout(symmetries, half_size), output, Console(stderr=True), CPU
    )
    if json_path:
        with output_file(json_path) as partial:
            shutil.copyfile(output / DOCUMENT, partial)
    click.echo(markdown(found))


if __name__ == "__main__":
    main()
