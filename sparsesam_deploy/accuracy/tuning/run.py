"""A tuning run from beginning to end: resumable, and in the end a recipe with its evidence in the output folder."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
import torch
from rich.console import Console

from ...artifacts import output_folder
from ...model.checkpoint import LoadedSam
from ...ops.backend import Backend
from ...parity.report import write_json
from ...progress import Stages, counted
from ...provenance import package_versions
from ..data.mirrored import Mirrored
from ..evaluation.gallery import CASES, pictures
from ..evaluation.journal import Journal
from ..evaluation.judge import Judge
from ..evaluation.run import provenance_of
from ..evaluation.scoring import Advance
from ..evaluation.variants import torch_variant
from ..report import Case, KeptTokens, write_plots, write_report
from ..report.records import DatasetSummary, RunProvenance, Tuning
from .cost_table import CostTable, counted_table, measured_table
from .measurements import Measurements, paired
from .schedule import SearchSpace
from .tuner import Budget, MeasuredSchedule, Search, Tuner

JOURNAL = "tuning.journal"
DOCUMENT, PARETO, RECIPE, COSTS, REPORT = "tuning.json", "pareto.csv", "recipe.toml", "cost_table.json", "report.html"


@dataclass(frozen=True, eq=False)
class TuneInputs:
    """What is tuned, on what, where: ``calibration`` and ``validation`` have no image in common."""

    loaded: LoadedSam
    space: SearchSpace
    judge: Judge
    calibration: Mirrored
    validation: Mirrored
    device: torch.device
    backend: Backend
    seed: int
    skip_bad: bool


def tune(
    inputs: TuneInputs,
    budget: Budget,
    table: CostTable | None,
    output: Path,
    console: Console,
    restart: bool = False,
) -> Tuning:
    """Find a schedule for ``budget``; write ``recipe.toml``, ``tuning.json``, ``pareto.csv``, ``report.html``, plots.

    ``table`` is a cost table that was measured before; without one milliseconds are measured here where ``budget``
    names some. What was tried is kept in ``output/tuning.journal``: a killed run goes on from there, and one with
    another budget tries only what is new.

    Raises:
        CheckFailed: no schedule that was evaluated meets the budget.
        InvalidInput: an unusable image or label; the journal is of another run; ``output`` cannot be written.
    """
    begun, loaded = time.monotonic(), inputs.loaded
    with output_folder(output) as folder:
        if restart:
            (output / JOURNAL).unlink(missing_ok=True)
        journal = Journal(output / JOURNAL, _plan(inputs))
        calibration, validation = (
            Measurements(loaded, inputs.judge, dataset, journal, inputs.skip_bad, inputs.device, inputs.backend)
            for dataset in (inputs.calibration, inputs.validation)
        )
        if table is None:
            table = _table(inputs, budget, console)
        tuner = Tuner(loaded, inputs.space, calibration, validation, table, budget, console)
        search = tuner.search()
        chosen = tuner.choose(search)
        compared = tuner.uniform(chosen)
        provenance = provenance_of(loaded, inputs.seed, inputs.device, begun)
        document = _document(provenance, inputs, calibration, validation, budget, table, search, chosen, compared)
        write_json(folder / DOCUMENT, document.model_dump(mode="json"))
        write_json(folder / COSTS, table.model_dump(mode="json"))
        _write_pareto(document, folder / PARETO)
        (folder / RECIPE).write_text(recipe(document, chosen), encoding="utf-8")
        write_plots(folder, None, document)
        with counted(console, "draw report", CASES) as advance:
            write_report(folder / REPORT, None, document, *_pictures(inputs, validation, chosen, advance))
    return document


def _plan(inputs: TuneInputs) -> dict[str, Any]:
    """Everything that measurements depend on; the budget is not of it, so that another one can reuse them."""
    return {
        "checkpoint": inputs.loaded.sha256,
        "calibration": [inputs.calibration.fingerprint, *inputs.calibration.names],
        "validation": [inputs.validation.fingerprint, len(inputs.validation.names)],
        "prompts": [repr(kind) for kind in inputs.judge.prompts],
        "point mask": inputs.judge.point_mask,
        "computed by": [str(inputs.device), inputs.backend, package_versions()],
        "routing": inputs.space.routing,
        "ladders": {knob: list(ladder) for knob, ladder in inputs.space.ladders.items()},
    }


def _table(inputs: TuneInputs, budget: Budget, console: Console) -> CostTable:
    if budget.target_ms is None:
        return counted_table(inputs.loaded, inputs.space)
    dtype = torch.float16 if inputs.device.type == "cuda" else torch.float32
    with Stages(console)("measure costs") as advance:
        return measured_table(inputs.loaded, inputs.space, inputs.device, inputs.backend, dtype, advance)


def _document(
    provenance: RunProvenance,
    inputs: TuneInputs,
    calibration: Measurements,
    validation: Measurements,
    budget: Budget,
    table: CostTable,
    search: Search,
    chosen: MeasuredSchedule,
    compared: MeasuredSchedule,
) -> Tuning:
    truth = "to the ground truth" if inputs.calibration.has_truth else "to the dense encoder's masks"
    points = [*search.points, compared]
    assert chosen.validation is not None and compared.validation is not None
    return Tuning(
        provenance=provenance,
        calibration=_summary(calibration, chosen),
        validation=_summary(validation, chosen),
        budget={name: value for name, value in vars(budget).items() if value is not None},
        cost_measure=table.measure,
        loss_is=f"drop of mean IoU {truth}, from the dense encoder's on the same prompts",
        prompts=tuple(kind.name for kind in inputs.judge.prompts),
        sensitivities=tuple(search.sensitivities),
        steps=tuple(search.steps),
        points=tuple(point.result() for point in points),
        chosen=chosen.name,
        compared=compared.name,
        difference=paired(chosen.validation, compared.validation),
    )


def _summary(measurements: Measurements, chosen: MeasuredSchedule) -> DatasetSummary:
    dataset, usable = measurements.dataset, measurements.usable(chosen.scheduled)
    return DatasetSummary(
        description=dataset.description,
        fingerprint=dataset.fingerprint,
        has_truth=dataset.has_truth,
        images=len({dataset.source(index) for index in usable}),
        objects=sum(usable.values()),
        symmetries=dataset.symmetries,
        left_out=dataset.left_out,
        skipped=tuple(measurements.problems),
    )


def _write_pareto(document: Tuning, path: Path) -> None:
    """One line for each schedule that was evaluated, the most expensive first."""
    columns = ("name", "gemm", "flops", "bytes", "ms", "calibration_loss", "low", "high", "validation_loss")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow((*columns, "validation_low", "validation_high"))
        for point in sorted(document.points, key=lambda point: -point.cost.flops):
            cost, seen, unseen = point.cost, point.calibration, point.validation
            of_validation = (unseen.mean, unseen.low, unseen.high) if unseen else ("", "", "")
            costs = (cost.gemm, cost.flops, cost.bytes, cost.ms)
            writer.writerow((point.name, *costs, seen.mean, seen.low, seen.high, *of_validation))


def recipe(document: Tuning, chosen: MeasuredSchedule) -> str:
    """The TOML recipe that `build` takes, with what it promises in its comments."""
    assert chosen.validation is not None
    sparsity, loss = chosen.scheduled.sparsity, chosen.validation.loss
    written = tomlkit.document()
    for line in (
        document.provenance.command,
        f"{document.provenance.model}, {document.provenance.created}: mean IoU {-loss.mean:+.4f} "
        f"[{-loss.high:+.4f}, {-loss.low:+.4f}] on {document.validation.images} images that the search did not see,",
        f"{chosen.cost.gemm:.3f} of the dense encoder's linear layers, {chosen.cost.flops:.3f} of all its work.",
        "Give the weights with --model or --checkpoint.",
    ):
        written.add(tomlkit.comment(_one_line(line)))
    for name in ("order", "routing", "windowed_routing"):
        written[name] = getattr(sparsity, name)
    for name in ("attention_density", "mlp_density", "windowed_density"):
        written[name] = list(map(float, getattr(sparsity, name)))  # ExportRecipe takes no 1 for a 1.0
    return tomlkit.dumps(written)


def _one_line(text: str) -> str:
    """``text`` as a comment can have it: a newline or what is no text, in the name of a file, is spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _pictures(
    inputs: TuneInputs, validation: Measurements, chosen: MeasuredSchedule, advance: Advance
) -> tuple[list[Case], list[KeptTokens]]:
    """The objects on which the chosen schedule lost most of those that the search did not see, and what it keeps."""
    variant = torch_variant(chosen.name, inputs.loaded, chosen.scheduled.sparsity, inputs.device, inputs.backend)
    worst = {variant.name: validation.worst(chosen.scheduled)}
    return pictures(inputs.judge, [variant], inputs.validation, worst, advance)
