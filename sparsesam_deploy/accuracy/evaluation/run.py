"""An evaluation from beginning to end: resumable, then complete in the output folder."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ...artifacts import output_folder
from ...model.checkpoint import LoadedSam
from ...parity.report import write_json
from ...progress import counted
from ...provenance import Provenance, package_versions
from ..data.mirrored import Mirrored
from ..report import write_plots, write_report
from ..report.records import Evaluation, RunProvenance
from .gallery import CASES, pictures
from .journal import Journal
from .scoring import Comparison, run, summarise, write_objects

JOURNAL = "evaluation.journal"
DOCUMENT, OBJECTS, REPORT = "evaluation.json", "objects.csv", "report.html"


def evaluate(
    comparison: Comparison,
    loaded: LoadedSam,
    dataset: Mirrored,
    output: Path,
    console: Console,
    device: torch.device,
    seed: int = 0,
    skip_bad: bool = False,
    restart: bool = False,
) -> Evaluation:
    """Judge every variant on every image and write ``evaluation.json``, ``objects.csv``, ``report.html`` and plots.

    What was judged is kept in ``output/evaluation.journal`` until then; the same call goes on from there, ``restart``
    drops it first.

    Raises:
        InvalidInput: an unusable image or label without ``skip_bad``; the journal is of another evaluation; ``output``
            cannot be written.
    """
    begun = time.monotonic()
    with output_folder(output) as folder:
        if restart:
            (output / JOURNAL).unlink(missing_ok=True)
        journal = Journal(output / JOURNAL, _plan(comparison, loaded, dataset))
        if journal.done:
            console.print(f"going on with the {len(journal.done)} images of {output / JOURNAL}", highlight=False)
        with counted(console, "evaluate", len(dataset.names), len(journal.done), "images") as advance:
            run(comparison, dataset, journal, skip_bad, advance)
        summary, variants = summarise(comparison, dataset, journal)
        document = Evaluation(
            provenance=provenance_of(loaded, seed, device, begun),
            dataset=summary,
            prompts=tuple(kind.name for kind in comparison.judge.prompts),
            variants=variants,
        )
        write_json(folder / DOCUMENT, document.model_dump(mode="json"))
        write_objects(journal, folder / OBJECTS)
        write_plots(folder, document, None)
        with counted(console, "draw report", CASES) as advance:
            worst = {variant.name: variant.worst for variant in variants[1:]}
            shown = pictures(comparison.judge, comparison.variants, dataset, worst, advance)
            write_report(folder / REPORT, document, None, *shown)
    (output / JOURNAL).unlink()
    return document


def provenance_of(loaded: LoadedSam, seed: int, device: torch.device, begun: float) -> RunProvenance:
    """Of a run that began at ``begun``, by `time.monotonic`."""
    return RunProvenance(
        **Provenance.here(device).model_dump(),
        model=loaded.source,
        checkpoint_sha256=loaded.sha256,
        seed=seed,
        seconds=round(time.monotonic() - begun, 1),
    )


def _plan(comparison: Comparison, loaded: LoadedSam, dataset: Mirrored) -> dict[str, Any]:
    """Everything that figures depend on, so that a journal is only ever continued by the same evaluation."""
    return {
        "checkpoint": loaded.sha256,
        "data set": [dataset.fingerprint, dataset.symmetries, len(dataset.names)],
        "variants": {
            variant.name: [asdict(variant.shape.sparsity), variant.encode.computed_by] for variant in comparison.all
        },
        "prompts": [repr(kind) for kind in comparison.judge.prompts],
        "point mask": comparison.judge.point_mask,
        "versions": package_versions(),
    }
