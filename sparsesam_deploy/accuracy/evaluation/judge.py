"""From image embeddings to figures: every encoder is asked the same prompts through the same decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ...errors import ImageError, InvalidInput
from ...model.checkpoint import LoadedSam
from ...model.decoder import SamDecoder
from ...model.image import Preprocessed, preprocess
from ...parity.masks import answer, torch_decode
from ...parity.metrics import boundary, mask_iou, relative_l2
from ..data.dataset import BadImage, Dataset, LabelledImage
from .objects import DenseObjects
from .prompts import Asked, PromptKind
from .variants import Encoder, Outputs

PROMPTS_AT_ONCE = 16
"""Bounds the decoder's memory: an image may have hundreds of objects."""

NOTHING_FOUND = "the dense encoder finds no object"

PointMask = Literal["best", "single"]
"""Of a single point: the best of SAM's three masks by predicted IoU, or its single mask."""


@dataclass(frozen=True, eq=False)
class Figures:
    """What one kind of prompt found, by object (N,): IoU and boundary IoU to the truth, IoU to the dense masks."""

    iou: np.ndarray
    boundary_iou: np.ndarray
    agreement: np.ndarray

    def rounded(self) -> dict[str, list[float]]:
        return {name: np.round(values, 6).tolist() for name, values in vars(self).items()}


@dataclass(frozen=True, eq=False)
class Scene:
    """One image, what is asked about it and what the dense encoder answers.

    Attributes:
        objects: names of the N objects.
        truth: (N, height, width) bool; None where the dense masks are the truth.
        asked: prompts by the name of their kind.
        dense: the dense encoder's masks (N, height, width) bool by kind of prompt.
        embedding: the dense image embedding, float32.
    """

    name: str
    pixels: np.ndarray
    image: Preprocessed
    objects: tuple[str, ...]
    areas: np.ndarray
    truth: np.ndarray | None
    asked: dict[str, Asked]
    dense: dict[str, np.ndarray]
    embedding: np.ndarray


class Judge:
    """Asks ``prompts`` of a checkpoint's own decoder, in float32 on ``device``.

    Args:
        loaded: the checkpoint.
        dense: its encoder, unthinned.
        prompts: kinds of prompt.
        point_mask: which of SAM's masks answers a single point.
    """

    def __init__(
        self,
        loaded: LoadedSam,
        dense: Encoder,
        prompts: Sequence[PromptKind],
        point_mask: PointMask,
        device: torch.device,
    ) -> None:
        self.dense, self.prompts, self.point_mask = dense, tuple(prompts), point_mask
        self._decode = torch_decode(SamDecoder(loaded.sam, loaded.config).to(device), device)
        self._find_objects = DenseObjects(loaded, device)

    def scene(self, name: str, item: LabelledImage) -> Scene | None:
        """Ask the dense encoder about an image; None when there is no ground truth and it finds no object.

        Raises:
            BadImage: the image cannot be scaled to the encoder's input, or a prompt file has no usable prompt for an
                object.
        """
        try:
            image = preprocess(item.pixels)
        except ImageError as error:
            raise BadImage(f"{name}: {error}") from error
        outputs = self.dense(image.tensor)
        masks, objects = item.masks, item.objects
        if masks is None:
            masks = self._find_objects(item.pixels, outputs)
            objects = tuple(f"object-{index}" for index in range(len(masks)))
        if len(masks) == 0:
            return None
        asked = {kind.name: kind.ask(name, objects, masks) for kind in self.prompts}
        dense = {kind: np.concatenate(list(self._masks(outputs, image, asked[kind], len(masks)))) for kind in asked}
        areas, truth = masks.sum((1, 2)), None if item.masks is None else masks
        return Scene(name, item.pixels, image, objects, areas, truth, asked, dense, outputs.image_embeddings)

    def ask(self, dataset: Dataset, index: int, skip_bad: bool) -> tuple[Scene | None, list[str]]:
        """`scene` of image ``index``, and what is left out of it, a sentence each; None if that is all of it.

        Raises:
            InvalidInput: the image or one of its labels cannot be used and ``skip_bad`` is not set.
        """
        name = dataset.names[index]
        try:
            item = dataset.load(index)
            if item.problems and not skip_bad:
                raise BadImage(item.problems[0])
            scene = self.scene(name, item)
        except (BadImage, ImageError) as error:
            if not skip_bad:
                words = str(error).rstrip(".")
                raise InvalidInput(f"{words} (or leave such images and labels out with --skip-bad).") from error
            return None, [str(error)]
        problems = list(item.problems)
        return scene, problems if scene is not None else [*problems, f"{name}: {NOTHING_FOUND}."]

    def figures(self, scene: Scene, outputs: Outputs | None) -> dict[str, Figures]:
        """Figures of an encoder's ``outputs`` on ``scene`` by kind of prompt; of the dense encoder itself when None."""
        found = {}
        for kind, asked in scene.asked.items():
            dense = scene.dense[kind]
            truth = dense if scene.truth is None else scene.truth
            parts = iter([dense]) if outputs is None else self._masks(outputs, scene.image, asked, len(dense))
            rows, first = [], 0
            for masks in parts:
                for offset, mask in enumerate(masks):
                    true, agreed = truth[first + offset], dense[first + offset]
                    rows.append(
                        (mask_iou(mask, true), mask_iou(boundary(mask), boundary(true)), mask_iou(mask, agreed))
                    )
                first += len(masks)
            found[kind] = Figures(*np.array(rows).T)
        return found

    def mask(self, scene: Scene, outputs: Outputs, kind: str, index: int) -> np.ndarray:
        """The mask (height, width) bool of object ``index`` by an encoder's ``outputs``."""
        return self._answer(outputs, scene.image, scene.asked[kind], slice(index, index + 1))[0]

    def embedding_error(self, scene: Scene, outputs: Outputs) -> float:
        """Relative L2 error of the image embedding."""
        return relative_l2(outputs.image_embeddings, scene.embedding)

    def _masks(self, outputs: Outputs, image: Preprocessed, asked: Asked, count: int) -> Iterator[np.ndarray]:
        for first in range(0, count, PROMPTS_AT_ONCE):
            yield self._answer(outputs, image, asked, slice(first, first + PROMPTS_AT_ONCE))

    def _answer(self, outputs: Outputs, image: Preprocessed, asked: Asked, chosen: slice) -> np.ndarray:
        prompts = asked.prompts(image.original_size, chosen)
        single = np.zeros(len(prompts.point_labels), int) if self.point_mask == "single" else None
        return answer(self._decode, outputs, prompts, image, single).masks
