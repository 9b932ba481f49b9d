"""``evaluate``: what each variant of an encoder costs in masks, image by image, resumable, in bounded memory."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from heapq import nsmallest
from pathlib import Path
from typing import Any

from ...errors import InvalidInput
from ..data.mirrored import Mirrored
from ..report.records import DatasetSummary, Score, VariantResult, Worst
from .journal import Journal
from .judge import NOTHING_FOUND, Judge, Scene
from .multiplications import cost_of
from .statistics import Images, Sample
from .variants import Variant

WORST = 10
"""Objects listed for each variant."""

Advance = Callable[[int, str], None]
"""Called with the number of images done and the name of the next one."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What is evaluated: variants of one checkpoint against its dense encoder, by ``judge``."""

    dense: Variant
    variants: tuple[Variant, ...]
    judge: Judge

    @property
    def all(self) -> tuple[Variant, ...]:
        return (self.dense, *self.variants)


def run(comparison: Comparison, dataset: Mirrored, journal: Journal, skip_bad: bool, advance: Advance) -> None:
    """Judge every image of ``dataset`` that ``journal`` has not; one image is in memory at a time.

    Raises:
        InvalidInput: an image or a label cannot be used and ``skip_bad`` is not set; the sentence names it.
    """
    if not skip_bad:
        refuse_skipped(journal)
    for index, name in enumerate(dataset.names):
        if index in journal.done:
            continue
        advance(len(journal.done), name)
        scene, problems = comparison.judge.ask(dataset, index, skip_bad)
        entry = {"image": name, "source": dataset.source(index), "problems": problems}
        journal.add(index, entry if scene is None else entry | _judged(comparison, scene))
    advance(len(journal.done), "")


def refuse_skipped(journal: Journal) -> None:
    """Refuse what an earlier run with `--skip-bad` left out.

    Raises:
        InvalidInput: there is something.
    """
    for entry in journal.entries():
        for problem in entry["problems"]:
            if NOTHING_FOUND not in problem:
                raise InvalidInput(
                    f"{problem.rstrip('.')} (left out by an earlier run; repeat --skip-bad or --restart)."
                )


def _judged(comparison: Comparison, scene: Scene) -> dict[str, Any]:
    figures = {comparison.dense.name: {"error": 0.0, "prompts": _rounded(comparison.judge.figures(scene, None))}}
    for variant in comparison.variants:
        outputs = variant.encode(scene.image.tensor)
        figures[variant.name] = {
            "error": comparison.judge.embedding_error(scene, outputs),
            "prompts": _rounded(comparison.judge.figures(scene, outputs)),
        }
    return {"objects": scene.objects, "areas": scene.areas.tolist(), "figures": figures}


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {kind: found.rounded() for kind, found in figures.items()}


def worst_first(found: Iterable[Worst]) -> list[Worst]:
    """The ten on which most was lost."""
    return nsmallest(WORST, found, key=lambda one: one.change)


class _Totals:
    """One variant's sums over the journal."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.samples: dict[tuple[str, str], Sample] = {}
        self.errors = Sample(images)
        self.worst: list[Worst] = []

    def add(self, entry: dict[str, Any], own: dict[str, Any], dense: dict[str, Any]) -> None:
        image = entry["source"]
        self.errors.add(image, [own["error"]])
        candidates = []
        for kind, found in own["prompts"].items():
            reference = dense["prompts"][kind]
            changes = {
                f"{figure}_change": [a - b for a, b in zip(found[figure], reference[figure], strict=True)]
                for figure in ("iou", "boundary_iou")
            }
            for figure, values in {**found, **changes}.items():
                self.samples.setdefault((kind, figure), Sample(self.images)).add(image, values)
            rows = zip(entry["objects"], found["iou"], reference["iou"], found["agreement"], strict=True)
            candidates += [
                Worst(image=entry["image"], object=name, prompt=kind, iou=iou, dense_iou=before, agreement=agreement)
                for name, iou, before, agreement in rows
            ]
        self.worst = worst_first(self.worst + candidates)

    def scores(self) -> tuple[Score, ...]:
        kinds = dict.fromkeys(kind for kind, _ in self.samples)
        return tuple(
            Score(
                prompt=kind,
                **{figure: sample.interval() for (of, figure), sample in self.samples.items() if of == kind},
            )
            for kind in kinds
        )


def summarise(
    comparison: Comparison, dataset: Mirrored, journal: Journal
) -> tuple[DatasetSummary, tuple[VariantResult, ...]]:
    """Means, intervals and worst cases of what is in ``journal``.

    Raises:
        InvalidInput: not one image could be used.
    """
    images: Images = {}
    totals = {variant.name: _Totals(images) for variant in comparison.all}
    objects, skipped = 0, []
    for entry in journal.entries():
        skipped += entry["problems"]
        if "figures" not in entry:
            continue
        objects += len(entry["objects"])
        dense = entry["figures"][comparison.dense.name]
        for name, own in entry["figures"].items():
            totals[name].add(entry, own, dense)
    if not images:
        raise InvalidInput(f"no image of {dataset.description} could be used; the first problem: {skipped[0]}")
    summary = DatasetSummary(
        description=dataset.description,
        fingerprint=dataset.fingerprint,
        has_truth=dataset.has_truth,
        images=len(images),
        objects=objects,
        symmetries=dataset.symmetries,
        left_out=dataset.left_out,
        skipped=tuple(skipped),
    )
    return summary, tuple(_result(variant, comparison.dense, totals[variant.name]) for variant in comparison.all)


def _result(variant: Variant, dense: Variant, totals: _Totals) -> VariantResult:
    return VariantResult(
        name=variant.name,
        settings=asdict(variant.shape.sparsity),
        effective_density=variant.shape.effective_density,
        cost=cost_of(variant.shape, dense.shape),
        computed_by=variant.encode.computed_by,
        embedding_error=totals.errors.interval(),
        scores=totals.scores(),
        worst=() if variant is dense else tuple(totals.worst),
    )


def write_objects(journal: Journal, path: Path) -> None:
    """``objects.csv``: one line for each object, variant and kind of prompt."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "object", "area", "variant", "prompt", "iou", "boundary_iou", "agreement"))
        for entry in journal.entries():
            for variant, own in entry.get("figures", {}).items():
                for kind, found in own["prompts"].items():
                    columns = (found["iou"], found["boundary_iou"], found["agreement"])
                    for name, area, *figures in zip(entry["objects"], entry["areas"], *columns, strict=True):
                        writer.writerow((entry["image"], name, area, variant, kind, *figures))
