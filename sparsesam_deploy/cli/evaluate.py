"""``sparsesam-export evaluate``: what sparsity costs on the user's own images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..declaration import settings_of
from ..errors import InvalidInput
from ..model.config import PRESETS, SparsityConfig
from ..optional import EXTRAS, require
from ..recipe import Start
from . import data, options

if TYPE_CHECKING:
    from ..accuracy.evaluation.variants import Variant
    from ..accuracy.report.records import Evaluation
    from ..export.weights import ModelName
    from ..model.checkpoint import LoadedSam
    from ..model.config import Gelu
    from ..ops.backend import Backend
    from ..runtime.loading import RuntimeName

DENSITY = next(setting for setting in settings_of(Start) if setting.name == "density")


@click.command(
    short_help="Measure what sparsity costs on images.",
    epilog="\b\nExample:\n  sparsesam-export evaluate --model nano --images val2017 --coco instances_val2017.json "
    "--density 0.3 --density 0.4 --output accuracy",
)
@options.weights
@data.data_choices
@data.prompt_choices
@options.setting_option(DENSITY, multiple=True)
@options.setting_options(SparsityConfig, "preset", multiple=True)
@click.option(
    "--preset",
    "presets",
    type=click.Choice(list(PRESETS)),
    multiple=True,
    help="Evaluate this preset as a variant; repeatable.",
)
@click.option(
    "--recipe",
    "recipes",
    type=click.Path(path_type=Path),
    metavar="FILE",
    multiple=True,
    help="Evaluate this recipe's sparsity as a variant, with the weights of this command; repeatable.",
)
@click.option(
    "--exported",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    multiple=True,
    help="Evaluate the encoder of this build or export as a variant, run by --runtime; repeatable.",
)
@click.option(
    "--runtime",
    type=click.Choice(["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]),
    help="What runs the folders of --exported: onnxruntime and openvino (on the CPU) run encoder.onnx, the others the "
    "engine on a GPU.  [default: onnxruntime]",
)
@data.device_choices
@click.option(
    "--max-miou-drop",
    type=options.FiniteRange(0, 1),
    help="Accuracy floor: exit 1 where a variant's mean IoU is lower than the dense encoder's by more than this.",
)
@click.option(
    "--restart", is_flag=True, help="Start anew, instead of going on where an unfinished run in --output stopped."
)
@options.output
@options.as_json
def evaluate(
    model: ModelName | None,
    checkpoint: Path | None,
    device: str,
    torch_backend: Backend,
    output: Path,
    max_miou_drop: float | None,
    skip_bad: bool,
    restart: bool,
    as_json: bool,
    **chosen: Any,
) -> int:
    """Measure what sparsity costs: masks of thinned encoders against ground truth and against the dense encoder.

    --density and the options of sparsity below it are repeatable: every combination of them is evaluated as a variant.
    --preset, --recipe and --exported add variants. Without any of these the default preset is evaluated. Without ground
    truth the dense encoder's masks are the truth. A run that was killed goes on where it stopped when the command is
    repeated.
    """
    require("evaluate", *EXTRAS["accuracy"])
    if chosen["exported"] and (runtime := chosen["runtime"] or "onnxruntime") in ("onnxruntime", "openvino"):
        require("--exported", runtime)
    from ..accuracy.evaluation.judge import Judge
    from ..accuracy.evaluation.run import evaluate as run
    from ..accuracy.evaluation.scoring import Comparison
    from ..accuracy.evaluation.variants import dense_variant, unique_names
    from ..export.weights import Weights
    from ..progress import Stages

    progress = Console(stderr=True)
    if chosen["runtime"] is not None and not chosen["exported"]:
        raise InvalidInput("--runtime is for the folders of --exported; give --exported DIR too, or leave it out.")
    place = data.torch_device(device, torch_backend)
    symmetries = chosen["symmetries"]
    dataset = data.read_dataset(chosen, progress)
    prompts = data.read_prompts(chosen, dataset, symmetries)
    with Stages(progress)("load checkpoint"):
        loaded = Weights(model, checkpoint).load()
        loaded.sam.to(place)
    dense = dense_variant(loaded, place, torch_backend)
    variants = _variants(loaded, chosen, place, torch_backend)
    judge = Judge(loaded, dense.encode, prompts, chosen["point_mask"], place)
    comparison = Comparison(dense, tuple(variants), judge)
    unique_names(comparison.all)
    found = run(comparison, loaded, dataset, output, progress, place, chosen["seed"], skip_bad, restart)
    lost = _lost(found, max_miou_drop)
    if as_json:
        document = {"passed": not lost, "failures": lost, "output": str(output), **found.model_dump(mode="json")}
        click.echo(json.dumps(document, indent=2))
    else:
        _print(found, Console())
        for sentence in lost:
            click.echo(sentence)
        click.echo(f"written to {output}: report.html, evaluation.json, objects.csv")
    return 1 if lost else 0


def _variants(loaded: LoadedSam, chosen: dict[str, Any], place: Any, backend: Backend) -> list[Variant]:
    from ..accuracy.evaluation.variants import combinations, describe, exported_variant, torch_variant
    from ..recipe import ExportRecipe

    lists = {setting.name: chosen[setting.name] for setting in (DENSITY, *settings_of(SparsityConfig))}
    named: list[tuple[str, SparsityConfig, Gelu]]
    named = [(f"preset {name}", PRESETS[name], "erf") for name in chosen["presets"]]
    for path in chosen["recipes"]:
        recipe = ExportRecipe.merge(path, {})  # the weights are those of this command
        named.append((f"recipe {path}", recipe.sparsity, recipe.export.gelu))
    if any(lists.values()) or not (named or chosen["exported"]):
        named += [(describe(sparsity), sparsity, "erf") for sparsity in combinations(lists, PRESETS["default"])]
    variants = [torch_variant(name, loaded, sparsity, place, backend, gelu) for name, sparsity, gelu in named]
    runner: RuntimeName = chosen["runtime"] or "onnxruntime"
    device = None if place.type == "cpu" else str(place)
    return variants + [exported_variant(folder, loaded, runner, device) for folder in chosen["exported"]]


def _lost(found: Evaluation, max_miou_drop: float | None) -> list[str]:
    """A sentence for each variant and kind of prompt that loses more than the floor allows."""
    if max_miou_drop is None:
        return []
    return [
        f"{variant.name}: mean IoU by {score.prompt} is {-score.iou_change.mean:.4f} below the dense encoder's, over "
        f"the {max_miou_drop:g} allowed"
        for variant in found.variants[1:]
        for score in variant.scores
        if -score.iou_change.mean > max_miou_drop
    ]


def _print(found: Evaluation, console: Console) -> None:
    data = found.dataset
    truth = "ground truth" if data.has_truth else "the dense encoder's masks"
    counts = f"{data.images} images, {data.objects} objects"
    console.print(f"{data.description}: {counts}", highlight=False, markup=False, soft_wrap=True)
    if data.images == 1:
        console.print("one image says nothing about others: there are no intervals", highlight=False)
    for sentence in data.skipped:
        console.print(f"left out: {sentence}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"mIoU and boundary IoU to {truth}, change from dense with its 95 % interval over images, IoU to dense masks",
        highlight=False,
        soft_wrap=True,
    )
    for variant in found.variants:
        console.print(
            f"\n[bold]{escape(variant.name)}[/]: linear layers {variant.cost.gemm:.3f} of dense, "
            f"embedding error {variant.embedding_error.mean:.3f}",
            highlight=False,
            soft_wrap=True,
        )
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("prompt", "mIoU", "change", "boundary", "change", "to dense"):
            table.add_column(name, justify="left" if name == "prompt" else "right", no_wrap=True)
        for score in variant.scores:
            table.add_row(
                score.prompt,
                f"{score.iou.mean:.4f}",
                _change(score.iou_change) if variant is not found.variants[0] else "",
                f"{score.boundary_iou.mean:.4f}",
                f"{score.boundary_iou_change.mean:+.4f}" if variant is not found.variants[0] else "",
                f"{score.agreement.mean:.4f}",
            )
        console.print(table)


def _change(interval: Any) -> str:
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
