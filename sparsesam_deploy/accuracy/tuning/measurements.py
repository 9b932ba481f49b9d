"""Schedules tried on images: every figure that `tune` uses was measured here, and is kept in its journal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InvalidInput
from ...model.attention import ImageState
from ...model.checkpoint import LoadedSam
from ...model.config import DENSE, SparsityConfig
from ...model.encoder import SparseSamEncoder
from ...ops.backend import Backend
from ...parity.verify import as_array
from ..data.mirrored import Mirrored
from ..evaluation.journal import Journal
from ..evaluation.judge import Figures, Judge, Scene
from ..evaluation.scoring import Advance, refuse_skipped, worst_first
from ..evaluation.statistics import Images, Sample
from ..evaluation.variants import Outputs
from ..report.records import Interval, Worst
from .schedule import Schedule

OWN_FIGURES = ("iou", "agreement")
SCENES_KEPT = 32
"""Images whose masks stay in memory: those of a search, which come again with every step."""


@dataclass(frozen=True)
class ScheduledSparsity:
    """One choice to try; blocks before ``first_thinned`` compute what the dense ones do."""

    sparsity: SparsityConfig
    first_thinned: int = 0

    @classmethod
    def of(cls, schedule: Schedule) -> ScheduledSparsity:
        return cls(schedule.sparsity, schedule.first_thinned)

    @property
    def key(self) -> str:
        """The same for the same settings, in every run."""
        return hashlib.sha256(json.dumps(asdict(self.sparsity)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Measurement:
    """What one schedule loses on a set of images: ``loss`` of mean IoU to the truth, ``disagreement`` with dense."""

    loss: Interval
    disagreement: Interval
    change: dict[str, list[float]]
    """Change of IoU from dense, by image, over all objects and prompts; kept for paired comparisons."""


class Measurements:
    """Measures schedules on ``dataset``, each schedule on each image once; at most 32 images are in memory."""

    def __init__(
        self,
        loaded: LoadedSam,
        judge: Judge,
        dataset: Mirrored,
        journal: Journal,
        skip_bad: bool,
        device: torch.device,
        backend: Backend,
    ) -> None:
        self.loaded, self.judge, self.dataset, self.journal, self.skip_bad = loaded, judge, dataset, journal, skip_bad
        self.device, self.backend = device, backend
        self._scenes: dict[int, tuple[Scene | None, list[str]]] = {}
        if not skip_bad:
            refuse_skipped(journal)
        mine = {*dataset.names}
        found = {entry["index"]: entry for entry in journal.entries()}
        self._found = {key: entry for key, entry in found.items() if key.partition(" ")[2] in mine}

    def __call__(
        self, schedules: Sequence[ScheduledSparsity], advance: Advance = lambda count, words: None
    ) -> list[Measurement]:
        """Figures of each schedule over all images.

        Raises:
            InvalidInput: an image or label cannot be used and ``skip_bad`` is not set, or none can.
        """
        done = 0
        for index, name in enumerate(self.dataset.names):
            missing = [one for one in schedules if self._key(one, index) not in self._found]
            done += len(schedules) - len(missing)
            if missing:
                for count, (one, entry) in enumerate(self._judged(index, missing), start=1):
                    self._keep(self._key(one, index), entry)
                    advance(done + count, name)
                done += len(missing)
        return [self._measurement(one) for one in schedules]

    def usable(self, scheduled: ScheduledSparsity) -> dict[int, int]:
        """How many objects there are on each image that could be used, by its position; ``scheduled`` was measured."""
        return {index: len(entry["objects"]) for index, entry in self._entries(scheduled)}

    def worst(self, scheduled: ScheduledSparsity) -> list[Worst]:
        """The objects on which ``scheduled``, which was measured, lost most, the worst first."""
        return worst_first(one for index, entry in self._entries(scheduled) for one in self._lost(index, entry))

    def _entries(self, scheduled: ScheduledSparsity) -> Iterator[tuple[int, dict[str, Any]]]:
        """What was found on each image that could be used, by its position."""
        for index in range(len(self.dataset.names)):
            entry = self._found[self._key(scheduled, index)]
            if "objects" in entry:
                yield index, entry

    def _lost(self, index: int, entry: dict[str, Any]) -> Iterator[Worst]:
        asked = product((kind.name for kind in self.judge.prompts), entry["objects"])
        figures = (entry[name] for name in ("iou", "dense_iou", "agreement"))
        for (prompt, name), iou, dense_iou, agreement in zip(asked, *figures, strict=True):
            yield Worst(
                image=self.dataset.names[index],
                object=name,
                prompt=prompt,
                iou=iou,
                dense_iou=dense_iou,
                agreement=agreement,
            )

    @property
    def problems(self) -> list[str]:
        """What was left out, in the order of images, by any run."""
        return list(dict.fromkeys(problem for entry in self._found.values() for problem in entry["problems"]))

    @torch.inference_mode()
    def _judged(
        self, index: int, schedules: Sequence[ScheduledSparsity]
    ) -> Iterator[tuple[ScheduledSparsity, dict[str, Any]]]:
        """Each schedule with its figures on image ``index``; without figures if the image cannot be used."""
        scene, problems = self._scene(index)
        if scene is None:
            yield from ((one, {"problems": problems}) for one in schedules)
            return
        image = scene.image.tensor.to(self.device)
        dense = list(self._dense_streams(image, max(one.first_thinned for one in schedules)))
        reference = {"objects": scene.objects, "dense_iou": _joined(self.judge.figures(scene, None), "iou")}
        for one in schedules:
            outputs = outputs_from(self._encoder(one.sparsity), dense, one.first_thinned)
            found = self.judge.figures(scene, outputs)
            yield one, {"problems": problems, **reference, **{name: _joined(found, name) for name in OWN_FIGURES}}

    def _dense_streams(self, image: Tensor, count: int) -> Iterator[Tensor]:
        """The dense stream before each of the first ``count`` + 1 blocks."""
        return islice(self._encoder(DENSE).streams(image), count + 1)

    def _scene(self, index: int) -> tuple[Scene | None, list[str]]:
        """What is asked about image ``index``, kept for the next schedules."""
        if index not in self._scenes:
            if len(self._scenes) == SCENES_KEPT:
                del self._scenes[min(self._scenes)]
            self._scenes[index] = self.judge.ask(self.dataset, index, self.skip_bad)
        return self._scenes[index]

    def _encoder(self, sparsity: SparsityConfig) -> SparseSamEncoder:
        encoder = SparseSamEncoder(self.loaded.sam.image_encoder, self.loaded.config, sparsity, backend=self.backend)
        return encoder.to(self.device).eval()

    def _key(self, scheduled: ScheduledSparsity, index: int) -> str:
        return f"{scheduled.key} {self.dataset.names[index]}"

    def _keep(self, key: str, entry: dict[str, Any]) -> None:
        self.journal.add(key, entry)
        self._found[key] = entry

    def _measurement(self, scheduled: ScheduledSparsity) -> Measurement:
        images: Images = {}
        losses, disagreements = Sample(images), Sample(images)
        changes: dict[str, list[float]] = {}
        for index, entry in self._entries(scheduled):
            change, image = np.subtract(entry["iou"], entry["dense_iou"]), self.dataset.source(index)
            losses.add(image, -change)
            disagreements.add(image, 1 - np.array(entry["agreement"]))
            changes.setdefault(image, []).extend(change.tolist())
        if not changes:
            raise InvalidInput(f"no image of {self.dataset.description} could be used: {self.problems[0]}")
        return Measurement(losses.interval(), disagreements.interval(), changes)


def _joined(figures: dict[str, Figures], name: str) -> list[float]:
    """One figure of all objects, one kind of prompt after the other."""
    return np.round(np.concatenate([getattr(of_kind, name) for of_kind in figures.values()]), 6).tolist()


def outputs_from(encoder: SparseSamEncoder, dense: Sequence[Tensor], start: int) -> Outputs:
    """Encode, given the dense streams before each block: (B, 4096, C) each; blocks before ``start`` are dense."""
    state, streams = ImageState(), list(dense[: start + 1])
    x = dense[start]
    for block in encoder.blocks[start:]:
        x = block(x, state)
        streams.append(x)
    return encoder.outputs_of(streams).map(as_array)


def paired(one: Measurement, other: Measurement) -> Interval:
    """Mean IoU of ``one`` minus that of ``other`` on the same objects, with its interval over images."""
    sample = Sample({})
    for image, values in one.change.items():
        sample.add(image, np.array(values) - np.array(other.change[image]))
    return sample.interval()
