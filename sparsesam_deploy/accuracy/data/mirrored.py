"""Every image in several of the eight symmetries of the square: more prompts out of few labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

import numpy as np

from ...errors import InvalidInput
from .dataset import Dataset, LabelledImage

SYMMETRIES: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("as it is", lambda a: a),
    ("left-right", lambda a: a[:, ::-1]),
    ("up-down", lambda a: a[::-1]),
    ("half turn", lambda a: a[::-1, ::-1]),
    ("transposed", lambda a: a.swapaxes(0, 1)),
    ("turned left", lambda a: a.swapaxes(0, 1)[::-1]),
    ("turned right", lambda a: a.swapaxes(0, 1)[:, ::-1]),
    ("anti-transposed", lambda a: a.swapaxes(0, 1)[::-1, ::-1]),
)
"""Names and what they do to (height, width, ...) arrays, as views."""


class Mirrored:
    """``dataset`` with each image in the first ``symmetries`` of the eight, one after the other.

    The image as it is keeps its name, the others are called ``00.png|left-right``. Mirrorings of one image are no
    independent samples: `source` names the original, which is what statistics resample. With one symmetry it is
    ``dataset`` itself, fingerprint included.

    Attributes:
        symmetries: how many there are of each image.

    Raises:
        InvalidInput: ``symmetries`` is not 1 to 8.
    """

    def __init__(self, dataset: Dataset, symmetries: int) -> None:
        if not 1 <= symmetries <= len(SYMMETRIES):
            raise InvalidInput(f"{symmetries} symmetries; the square has 1 to {len(SYMMETRIES)}.")
        self._dataset, self.symmetries, self._turns = dataset, symmetries, SYMMETRIES[:symmetries]
        self.names: Sequence[str] = [
            f"{name}|{symmetry}" if place else name
            for name in dataset.names
            for place, (symmetry, _) in enumerate(self._turns)
        ]
        self.has_truth, self.left_out = dataset.has_truth, dataset.left_out
        self.description, self.fingerprint = dataset.description, dataset.fingerprint
        if symmetries > 1:
            self.description += f", in {symmetries} mirrorings"
            self.fingerprint = sha256(f"{dataset.fingerprint} in {symmetries} mirrorings".encode()).hexdigest()

    def source(self, index: int) -> str:
        """The name of the original of image ``index``."""
        return self._dataset.names[index // self.symmetries]

    def load(self, index: int) -> LabelledImage:
        """Decode image ``index`` and mirror it with its masks; raises `BadImage` as `Dataset.load` does."""
        original, place = divmod(index, self.symmetries)
        image, (_, turn) = self._dataset.load(original), self._turns[place]
        masks = image.masks
        if masks is not None:  # turned with the masks' axis last, copied with it first
            masks = np.ascontiguousarray(np.moveaxis(turn(np.moveaxis(masks, 0, -1)), -1, 0))
        return LabelledImage(np.ascontiguousarray(turn(image.pixels)), masks, image.objects, image.problems)
