"""What every data set offers: images with the true masks of the objects on them, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...errors import InvalidInput


class BadImage(InvalidInput):
    """One image of a data set, or its labels, cannot be used; the sentence names the file and why."""


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One decoded image and its objects.

    Attributes:
        pixels: (height, width, 3) uint8 RGB.
        masks: (N, height, width) bool, none of them empty; ``None`` where there is no ground truth.
        objects: what each mask is called in reports, unique in its image: annotation id, label value or file name.
        problems: sentences about labels of this image that cannot be used and are left out, each naming the file.
    """

    pixels: np.ndarray
    masks: np.ndarray | None
    objects: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Dataset(Protocol):
    """Images by position; nothing of an image is in memory before ``load`` or after its result is dropped.

    Attributes:
        description: a few words for reports, with the folder or file it was read from.
        names: of the images, unique, in the order of evaluation.
        has_truth: whether `load` gives masks.
        fingerprint: hex digest of what the labels are and which images there are, to recognise the same data set.
        left_out: what the data set's own conventions leave out, counted by reason (``{"crowd annotations": 12}``).
    """

    description: str
    names: Sequence[str]
    has_truth: bool
    fingerprint: str
    left_out: dict[str, int]

    def load(self, index: int) -> LabelledImage:
        """Decode image ``index``.

        Raises:
            BadImage: the image or its labels cannot be used at all.
        """
        ...
