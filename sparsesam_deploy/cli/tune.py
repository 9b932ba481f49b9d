"""``sparsesam-export tune``: densities for an accuracy budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from ..errors import InvalidInput
from ..ops.routing import ROUTING_RULES, SHARING
from ..optional import EXTRAS, require
from . import data, options

if TYPE_CHECKING:
    from ..accuracy.data.mirrored import Mirrored
    from ..accuracy.report.records import ParetoPoint, Tuning
    from ..export.weights import ModelName
    from ..model.config import Routing
    from ..ops.backend import Backend

CALIBRATION_IMAGES = 16
LEAST = 4
"""Images that a search, or its validation, takes at least."""


@click.command(
    short_help="Choose the densities for an accuracy budget.",
    epilog="\b\nExample:\n  sparsesam-export tune --checkpoint sam_vit_h_4b8939.pth --images photos/ --device cuda "
    "--max-miou-drop 0.01 --output tuned\n"
    "  sparsesam-export tune --model nano --images photos/ --max-cost 0.4 --routing share-quadtree --output tuned",
)
@options.weights
@data.data_choices
@data.prompt_choices
@data.device_choices
@click.option(
    "--max-miou-drop",
    type=options.FiniteRange(0, 1),
    help="Accuracy budget: most mean IoU that the result may lose to the dense encoder, on images the search did not "
    "see.",
)
@click.option(
    "--target-ms",
    type=options.FiniteRange(0, min_open=True),
    help="Time budget: most milliseconds that the encoder may take, by costs measured on --device or read from "
    "--cost-table.",
)
@click.option(
    "--max-cost",
    type=options.FiniteRange(0, 1, min_open=True),
    help="Work budget: most multiplications that the encoder may do, as a share of the dense encoder's.",
)
@click.option(
    "--routing",
    type=click.Choice(SHARING),
    default="share-variance",
    show_default=True,
    help="How the MLPs share rows; each has a lowest density: "
    + ", ".join(f"{routing} {ROUTING_RULES[routing].least:g}" for routing in SHARING),
)
@click.option(
    "--cost-table",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Milliseconds of every block for --target-ms: cost_table.json of an earlier run, or your own in that form.",
)
@click.option(
    "--calibration",
    type=click.IntRange(LEAST),
    default=CALIBRATION_IMAGES,
    show_default=True,
    metavar="N",
    help="Number of images that the search uses, picked evenly, at most half of all; the others validate its result.",
)
@click.option("--restart", is_flag=True, help="Start anew, instead of using what an earlier run in --output measured.")
@options.output
@options.as_json
def tune(
    model: ModelName | None,
    checkpoint: Path | None,
    device: str,
    torch_backend: Backend,
    max_miou_drop: float | None,
    target_ms: float | None,
    max_cost: float | None,
    routing: Routing,
    cost_table: Path | None,
    calibration: int,
    output: Path,
    skip_bad: bool,
    restart: bool,
    as_json: bool,
    **chosen: Any,
) -> int:
    """Choose a density for every block: the cheapest within an accuracy budget, or the most accurate within a time.

    The search first thins each block alone to see what accuracy that costs. It then lowers densities one at a time,
    those first that lose least accuracy for the work they save, and measures on the way. The result was measured on
    images that the search did not see. The images need no labels: 8 to 32 of the kind you segment will do. The command
    writes recipe.toml for `build --recipe`, the Pareto table and a report. Measurements stay in --output: a run that
    was killed goes on from them, and a run with another budget measures only what is new.
    """
    require("tune", *EXTRAS["accuracy"])
    from ..accuracy.evaluation.judge import Judge
    from ..accuracy.evaluation.variants import dense_variant
    from ..accuracy.tuning.cost_table import CostTable
    from ..accuracy.tuning.run import TuneInputs
    from ..accuracy.tuning.run import tune as run
    from ..accuracy.tuning.schedule import SearchSpace
    from ..accuracy.tuning.tuner import Budget
    from ..export.weights import Weights
    from ..progress import Stages

    if max_miou_drop is None and target_ms is None and max_cost is None:
        raise InvalidInput("no budget was given; give --max-miou-drop, --target-ms or --max-cost.")
    if target_ms is not None and max_cost is not None:
        raise InvalidInput("--target-ms and --max-cost both name a cost to reach; give only one of them.")
    if cost_table is not None and target_ms is None:
        raise InvalidInput("--cost-table is for --target-ms; give both or neither.")
    progress = Console(stderr=True)
    place = data.torch_device(device, torch_backend)
    symmetries = chosen["symmetries"]
    dataset = data.read_dataset({**chosen, "symmetries": 1}, progress)
    prompts = data.read_prompts(chosen, dataset, symmetries)
    seen, unseen = _split(dataset, calibration, symmetries)
    with Stages(progress)("load checkpoint"):
        loaded = Weights(model, checkpoint).load()
        loaded.sam.to(place)
    space = SearchSpace(loaded.config, routing)
    table = None if cost_table is None else CostTable.read(cost_table, space)
    judge = Judge(loaded, dense_variant(loaded, place, torch_backend).encode, prompts, chosen["point_mask"], place)
    inputs = TuneInputs(loaded, space, judge, seen, unseen, place, torch_backend, chosen["seed"], skip_bad)
    found = run(inputs, Budget(max_miou_drop, target_ms, max_cost), table, output, progress, restart)
    if as_json:
        click.echo(json.dumps({"output": str(output), **found.model_dump(mode="json")}, indent=2))
    else:
        console = Console()
        console.width = max(console.width, 110)  # a figure that is cut off is worse than a line that wraps
        _print(found, console)
        click.echo(f"written to {output}: recipe.toml, report.html, tuning.json, pareto.csv")
    return 0


def _split(dataset: Mirrored, calibration: int, symmetries: int) -> tuple[Mirrored, Mirrored]:
    """Evenly picked images for the search, the others for validation; both mirrored alike."""
    from ..accuracy.data.mirrored import Mirrored
    from ..accuracy.data.subset import Subset, evenly

    count = len(dataset.names)
    if count < 2 * LEAST:
        raise InvalidInput(
            f"{count} images are too few: the search needs {LEAST} and its validation {LEAST}; give more."
        )
    seen = evenly(count, min(calibration, count // 2))
    unseen = sorted({*range(count)} - {*seen})
    return Mirrored(Subset(dataset, seen), symmetries), Mirrored(Subset(dataset, unseen), symmetries)


def _print(found: Tuning, console: Console) -> None:
    console.print(f"loss: {found.loss_is}", highlight=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("schedule", no_wrap=True)
    for name in ("linear", "all", *(["ms"] if found.cost_measure == "ms" else []), "loss, calibration", "loss, unseen"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in found.points:
        marks = {found.chosen: " (chosen)", found.compared: " (compared)"}
        costs = [f"{point.cost.gemm:.3f}", f"{point.cost.flops:.3f}"]
        if found.cost_measure == "ms":
            costs.append("" if point.cost.ms is None else f"{point.cost.ms:.2f}")
        table.add_row(point.name + marks.get(point.name, ""), *costs, *_losses(point))
    console.print(table)
    gained = found.difference
    console.print(
        f"{found.chosen} against {found.compared}: mean IoU {gained.mean:+.4f} [{gained.low:+.4f}, {gained.high:+.4f}]",
        highlight=False,
    )


def _losses(point: ParetoPoint) -> list[str]:
    intervals = (point.calibration, point.validation)
    return ["" if one is None else f"{one.mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}]" for one in intervals]
