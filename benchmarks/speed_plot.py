"""The picture of what ``make gpu-check`` measured: time against density with the floor, and against batch.

python -m benchmarks.speed_plot docs/results/h200.json docs/results/h200.png
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from benchmarks.encoder_speed import DEFAULT, GRAPH
from sparsesam_deploy.artifacts import output_file
from sparsesam_deploy.optional import importing
from sparsesam_deploy.provenance import Provenance

COLOURS = {"vit_b": "#0072b2", "vit_l": "#d55e00", "vit_h": "#009e73"}
LABELS = {"vit_b": "ViT-B", "vit_l": "ViT-L", "vit_h": "ViT-H"}


def draw(encoder: dict[str, dict], title: str, path: Path) -> None:
    """Write the PNG. ``encoder`` is what `encoder_speed` measured, by family; what was not measured is left out.

    Raises:
        EnvironmentProblem: matplotlib is not installed.
    """
    with importing("matplotlib", "the picture"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
        from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    by_density, by_batch = figure.subplots(1, 2)
    ticks: dict = {by_density: set(), by_batch: set()}

    def curve(axes, points: list[tuple[float, float]], **style) -> None:
        if points:
            axes.plot(*zip(*sorted(points), strict=True), **style)
            ticks[axes].update(x for x, _ in points)

    for family, colour in COLOURS.items():
        rows = [row for row in encoder.get(family, {}).get("rows", ()) if row["timing"]]
        even = [row for row in rows if row["name"].startswith("density ") and row["batch"] == 1]
        curve(by_density, [(r["density"]["mlp"], milliseconds(r)) for r in even], color=colour, marker="o")
        floors = [(r["density"]["mlp"], r["floor"]["median"] / 1e3) for r in even if r.get("floor")]
        curve(by_density, floors, color=colour, linestyle="--", linewidth=1)
        default = [row for row in rows if row["name"] == DEFAULT]
        graph = [row for row in rows if row["name"] == GRAPH]
        first = [(r["density"]["mlp"], milliseconds(r)) for r in default if r["batch"] == 1]
        curve(by_density, first, color=colour, marker="D", linestyle="", markerfacecolor="white", markersize=7)
        curve(
            by_density,
            [(1.0, milliseconds(r)) for r in graph if r["batch"] == 1],
            color=colour,
            marker="X",
            linestyle="",
            markersize=8,
        )
        curve(by_batch, [(r["batch"], milliseconds(r) / r["batch"]) for r in default], color=colour, marker="D")
        floors = [(r["batch"], r["floor"]["median"] / 1e3 / r["batch"]) for r in default if r.get("floor")]
        curve(by_batch, floors, color=colour, linestyle="--", linewidth=1)
        eager = [(r["batch"], milliseconds(r) / r["batch"]) for r in graph]
        curve(by_batch, eager, color=colour, marker="X", linestyle=":")

    by_density.set(title="batch 1", xlabel="density of global attention and of routed MLPs", ylabel="ms an image")
    by_batch.set(title="default preset (0.25 / 0.5)", xlabel="batch", xscale="log")
    for axes in (by_density, by_batch):
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sorted(ticks[axes])))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(FixedLocator((0.5, 1, 2, 5, 10, 20, 50, 100)))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    families = [Line2D([], [], color=colour, label=LABELS[family]) for family, colour in COLOURS.items()]
    grey = {"color": "#555555"}
    kinds = [
        Line2D([], [], marker="o", label="ours, one CUDA graph", **grey),
        Line2D([], [], marker="D", markerfacecolor="white", linestyle="", label="default preset (0.25 / 0.5)", **grey),
        Line2D([], [], linestyle="--", linewidth=1, label="floor: its matrix products alone", **grey),
        Line2D([], [], marker="X", linestyle=":", label="eager fp16, in a CUDA graph", **grey),
    ]
    figure.legend(handles=[*families, *kinds], loc="outside lower center", ncols=7, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    with output_file(path) as partial:
        figure.savefig(partial, format="png", dpi=130)


def milliseconds(row: dict) -> float:
    return row["timing"]["median"] / 1e3


def title_of(provenance: Provenance) -> str:
    torch, triton = (provenance.versions[name] for name in ("torch", "triton"))
    versions = f"torch {torch}, triton {triton}, commit {provenance.commit}, {provenance.date}"
    return f"Image encoder, fp16, random weights, {provenance.machine['device']}: {versions}"


@click.command(help=__doc__.splitlines()[0])
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("picture", type=click.Path(path_type=Path))
def main(source: Path, picture: Path) -> None:
    results = json.loads(source.read_text())
    draw(results["encoder"], title_of(Provenance.model_validate(results["provenance"])), picture)


if __name__ == "__main__":
    main()
