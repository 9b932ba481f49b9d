"""The picture of what `cpu_speed` measured: time against density, with the floor of each.

python -m benchmarks.cpu_plot docs/results/cpu.json docs/cpu_speed.png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from benchmarks.cpu_speed import EAGER, PLAIN, RUNTIMES, TRANSFORMERS
from benchmarks.speed_plot import LABELS
from sparsesam_deploy.artifacts import output_file
from sparsesam_deploy.optional import importing

COLOURS = {"ONNX Runtime": "#0072b2", "OpenVINO": "#009e73"}
MARKS = {"default": "D", "nano-tuned": "*"}
PEERS = {
    EAGER: ("X", "segment_anything, eager"),
    TRANSFORMERS: ("P", "transformers, eager"),
    PLAIN: ("s", "plain export"),
}
GREY = "#555555"


def draw(results: dict[str, Any], path: Path) -> None:
    """Write the PNG of ``results``, one panel a model; what was not measured is left out.

    Raises:
        EnvironmentProblem: matplotlib is not installed.
    """
    with importing("matplotlib", "the picture"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D

    timed = [row for row in results["rows"] if row["status"] == "timed"]
    families = list(dict.fromkeys(row["family"] for row in timed))
    figure = Figure(figsize=(max(7.5, 5.5 * len(families)), 5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, family in zip(figure.subplots(1, len(families), squeeze=False)[0], families, strict=True):
        _panel(axes, [row for row in timed if row["family"] == family])
        axes.set(title=LABELS.get(family, family), xlabel="density of attention and MLPs", ylabel="s an image", ylim=0)
        axes.grid(alpha=0.3)
    lines = [Line2D([], [], color=colour, marker="o", label=f"ours, {name}") for name, colour in COLOURS.items()]
    lines.append(Line2D([], [], color=GREY, linestyle="--", label="floor: its matrix products alone"))
    marks = {marker: f"{name} preset" if name == "default" else f"recipe {name}" for name, marker in MARKS.items()}
    for marker, label in (*marks.items(), *PEERS.values()):
        lines.append(Line2D([], [], color=GREY, marker=marker, linestyle="", label=label))
    figure.legend(handles=lines, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    provenance = results["provenance"]
    machine = f"{provenance['machine']['processor']}, {results['threads']} threads"
    figure.suptitle(f"Image encoder, float32, {machine}, commit {provenance['commit']}", fontsize=9)
    with output_file(path) as partial:
        figure.savefig(partial, format="png", dpi=130)


def _panel(axes: Any, rows: list[dict[str, Any]]) -> None:
    for runtime in RUNTIMES.values():
        of_runtime = [row for row in rows if row["name"].endswith(f", {runtime}") and row["name"] not in PEERS]
        ours = {row["name"].removesuffix(f", {runtime}"): row for row in of_runtime}
        even = sorted((row for row in ours.values() if row["density"]), key=lambda row: row["density"])
        densities, colour = [row["density"] for row in even], COLOURS[runtime]
        axes.plot(densities, [row["median_ms"] / 1e3 for row in even], color=colour, marker="o")
        floors = [(row["density"], row["products_ms"] / 1e3) for row in even if row["products_ms"]]
        if floors:
            axes.plot(*zip(*floors, strict=True), color=colour, linestyle="--", linewidth=1)
        for name, marker in MARKS.items():
            if name in ours:
                row = ours[name]
                axes.plot(row["mlp_density"], row["median_ms"] / 1e3, color=colour, marker=marker, markersize=8)
    for row in rows:
        if row["name"] in PEERS:
            axes.plot(1.0, row["median_ms"] / 1e3, color=GREY, marker=PEERS[row["name"]][0], markersize=8)


@click.command(help=__doc__.splitlines()[0])
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("picture", type=click.Path(path_type=Path))
def main(source: Path, picture: Path) -> None:
    draw(json.loads(source.read_text()), picture)


if __name__ == "__main__":
    main()
