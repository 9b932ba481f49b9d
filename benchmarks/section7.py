"""What each way of thinning costs on the trained nano model: the table of section 7 of the algorithm's specification.

    python -m benchmarks.section7 --json docs/results/section7_nano.json

Mean IoU from a box and from a centre point, as the change from the dense encoder with its standard error, and the
relative error of the image embedding. On 12 images the error of a skipping variant is about 0.01: read it first.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.holdout import PROMPTS, SYMMETRIES, Encode, Scene, object_ious, preprocess, scenes
from benchmarks.provenance import commit
from sparsesam_deploy.engines.report import write_json
from sparsesam_deploy.model.checkpoint import load_nano
from sparsesam_deploy.model.config import SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder


def variants(density: float) -> dict[str, SparsityConfig]:
    """The rows of the table that a :class:`SparsityConfig` can express; random routing is not on offer."""
    d = density
    return {
        "released code": SparsityConfig(d, d, d, "ranked", "skip-group-rank"),
        "ranked attention": SparsityConfig(d, 1.0, d, "ranked"),
        "ranked, global only": SparsityConfig(d, 1.0, order="ranked"),
        "interleaved, global only": SparsityConfig(d, 1.0, order="interleaved"),
        "lattice with diagonal": SparsityConfig(d, 1.0, diagonal=True),
        "lattice": SparsityConfig(d, 1.0),
        "skip, group rank": SparsityConfig(1.0, d, routing="skip-group-rank"),
        "skip, sobel": SparsityConfig(1.0, d, routing="skip-sobel"),
        "skip, static": SparsityConfig(1.0, d, routing="skip-static"),
        "share, sobel": SparsityConfig(1.0, d, routing="share-sobel"),
        "share, variance": SparsityConfig(1.0, d, routing="share-variance"),
        "lattice + share, variance": SparsityConfig(d, d),
    }


# (box, point, embedding error) on 96 images that are not in this repository, by variant and density.
PUBLISHED: dict[str, dict[float, tuple[float, float, float]]] = {
    "released code": {0.3: (-0.052, -0.066, 0.31), 0.4: (-0.041, -0.052, 0.29), 0.5: (-0.033, -0.034, 0.26)},
    "ranked attention": {0.3: (-0.004, -0.006, 0.071), 0.4: (-0.003, -0.006, 0.071), 0.5: (0.0, 0.001, 0.021)},
    "ranked, global only": {0.3: (-0.001, 0.002, 0.067), 0.4: (0.0, 0.0, 0.066), 0.5: (0.0, 0.001, 0.020)},
    "lattice with diagonal": {0.3: (-0.002, -0.008, 0.042), 0.4: (-0.001, -0.004, 0.029), 0.5: (-0.001, -0.002, 0.021)},
    "lattice": {0.3: (-0.001, -0.001, 0.019), 0.4: (-0.001, -0.001, 0.017), 0.5: (-0.001, -0.001, 0.013)},
    "skip, sobel": {0.3: (-0.039, -0.054, 0.30), 0.4: (-0.030, -0.043, 0.29), 0.5: (-0.023, -0.035, 0.26)},
    "skip, static": {0.3: (-0.038, -0.045, 0.23), 0.4: (-0.034, -0.046, 0.21), 0.5: (-0.027, -0.039, 0.19)},
    "share, sobel": {0.3: (-0.015, -0.020, 0.081), 0.4: (-0.007, -0.011, 0.070), 0.5: (-0.004, -0.009, 0.063)},
    "share, variance": {0.3: (-0.014, -0.018, 0.078), 0.4: (-0.005, -0.008, 0.064), 0.5: (-0.003, -0.003, 0.052)},
    "lattice + share, variance": {
        0.3: (-0.015, -0.019, 0.081),
        0.4: (-0.006, -0.008, 0.067),
        0.5: (-0.004, -0.004, 0.055),
    },
}


@dataclass(frozen=True)
class Outcome:
    """``change`` of mean IoU from the dense encoder and its standard error, by prompt; the embedding's error."""

    change: dict[str, float]
    standard_error: dict[str, float]
    embedding_error: float
    objects: int


class Comparison:
    """Compares encoders with the dense one on the same scenes; one embedding is in memory at a time.

    ``sam`` segments; ``add`` takes scene after scene and ``outcome`` sums up what was seen so far.
    """

    def __init__(self, sam, encoders: dict[str, Encode]) -> None:
        self.sam, self.encoders = sam, encoders
        self.dense: dict[str, list[np.ndarray]] = {prompt: [] for prompt in PROMPTS}
        self._sources: list[str] = []
        self._changes = {name: {prompt: [] for prompt in PROMPTS} for name in encoders}
        self._errors: dict[str, list[float]] = {name: [] for name in encoders}

    @torch.no_grad()
    def add(self, scene: Scene, advance=lambda: None) -> None:
        self._sources.append(scene.source)
        image = preprocess(self.sam, scene.image)
        reference = self.sam.image_encoder(image)
        dense = object_ious(self.sam, reference, scene)
        for prompt in PROMPTS:
            self.dense[prompt].append(dense[prompt])
        for name, encode in self.encoders.items():
            embedding = encode(image)
            self._errors[name].append(((embedding - reference).norm() / reference.norm()).item())
            for prompt, ious in object_ious(self.sam, embedding, scene).items():
                self._changes[name][prompt].append(ious - dense[prompt])
            advance()

    def dense_iou(self) -> dict[str, float]:
        return {prompt: float(np.concatenate(ious).mean()) for prompt, ious in self.dense.items()}

    def outcome(self, name: str) -> Outcome:
        changes = self._changes[name]
        return Outcome(
            {prompt: float(np.concatenate(scenes_of_it).mean()) for prompt, scenes_of_it in changes.items()},
            {prompt: standard_error(scenes_of_it, self._sources) for prompt, scenes_of_it in changes.items()},
            float(np.mean(self._errors[name])),
            len(np.concatenate(changes["box"])),
        )


def standard_error(per_scene: list[np.ndarray], sources: list[str]) -> float:
    """Of the mean over all objects: 1000 bootstraps with a fixed seed, over images and not over their mirrorings.

    A mirrored image shows the same objects once more, so mirroring makes each image's figure better but adds no image.
    """
    images = sorted(set(sources))
    of_image = [[ious for ious, source in zip(per_scene, sources, strict=True) if source == image] for image in images]
    sums = np.array([sum(ious.sum() for ious in scenes_of_it) for scenes_of_it in of_image])
    counts = np.array([sum(len(ious) for ious in scenes_of_it) for scenes_of_it in of_image])
    draws = np.random.default_rng(0).integers(0, len(images), (1000, len(images)))
    return float((sums[draws].sum(1) / counts[draws].sum(1)).std())


def print_table(console: Console, comparison: Comparison, names: tuple[str, ...], densities: tuple[float, ...]) -> None:
    dense = comparison.dense_iou()
    table = Table(title=f"change from dense: box {dense['box']:.3f} / point {dense['point']:.3f}")
    table.add_column("variant")
    for density in densities:
        table.add_column(f"d = {density:g}: box / point (error)")
        table.add_column("published", style="dim")
    for name in names:
        cells = []
        for density in densities:
            found = comparison.outcome(f"{name} {density:g}")
            both = (f"{found.change[prompt]:+.3f} ± {found.standard_error[prompt]:.3f}" for prompt in PROMPTS)
            cells.append(f"{' / '.join(both)} ({found.embedding_error:.3f})")
            published = PUBLISHED.get(name, {}).get(density)
            cells.append("{:+.3f} / {:+.3f} ({:.3g})".format(*published) if published else "")
        table.add_row(name, *cells)
    console.print(table)


@click.command(help=__doc__.splitlines()[0])
@click.option("--density", "densities", type=float, multiple=True, default=(0.3, 0.4, 0.5), show_default=True)
@click.option(
    "--symmetries",
    type=click.IntRange(1, len(SYMMETRIES)),
    default=1,
    show_default=True,
    help="How many of the eight mirrorings and turns of each image; the first four are the flips.",
)
@click.option(
    "--scale",
    "scales",
    type=click.FloatRange(0.25, 1),
    multiple=True,
    default=(1.0,),
    show_default=True,
    help="Sizes at which each image is shown, grey around it; may be repeated.",
)
@click.option(
    "--variant",
    "names",
    type=click.Choice(list(variants(0.5))),
    multiple=True,
    default=tuple(variants(0.5)),
    help="Rows of the table; all unless given.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Where to write all figures.")
def main(
    densities: tuple[float, ...],
    symmetries: int,
    scales: tuple[float, ...],
    names: tuple[str, ...],
    json_path: Path | None,
) -> None:
    console = Console()
    loaded = load_nano()
    encoders = {
        f"{name} {density:g}": SparseSamEncoder(loaded.sam.image_encoder, loaded.config, sparsity).eval()
        for density in densities
        for name, sparsity in variants(density).items()
        if name in names
    }
    found, comparison = scenes(symmetries, scales), Comparison(loaded.sam, encoders)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("scenes", total=len(found) * len(encoders))
        for scene in found:
            progress.update(task, description=f"{scene.source} {scene.symmetry}, {scene.scale:g}")
            comparison.add(scene, lambda: progress.advance(task))
    print_table(console, comparison, names, densities)
    if json_path:
        rows = {name: asdict(comparison.outcome(name)) for name in encoders}
        json_path.parent.mkdir(parents=True, exist_ok=True)
        dense = comparison.dense_iou()
        write_json(json_path, {"commit": commit(), "scenes": len(found), "dense": dense, "rows": rows})


if __name__ == "__main__":
    main()
