"""Means over objects with confidence intervals over images."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from ..report.records import Interval

DRAWS = 2000
DRAWS_AT_ONCE = 50
"""Bounds memory: a draw is one number for each image."""
CONFIDENCE = 0.95

Images = dict[str, int]
"""Positions of images, shared by all figures about them."""


class Sample:
    """Sums and counts of a figure by image: all that a bootstrap over images needs, however many objects there are.

    Objects of one image are not independent, so images are what is drawn. Several showings of one image (its
    mirrorings) are one image. Sixteen bytes an image; ``images`` is filled on the way.
    """

    def __init__(self, images: Images) -> None:
        self._images, self._sums, self._counts = images, array("d"), array("d")

    def add(self, image: str, values: Sequence[float] | np.ndarray) -> None:
        """Take the values of the objects of ``image``."""
        position = self._images.setdefault(image, len(self._images))
        missing = position + 1 - len(self._sums)
        self._sums.extend([0.0] * missing)
        self._counts.extend([0.0] * missing)
        self._sums[position] += float(np.sum(values))
        self._counts[position] += len(values)

    def interval(self) -> Interval:
        """Mean over objects, with the percentiles of 2000 bootstrap draws of images (fixed seed).

        Of one image there is no interval: low and high are its mean.
        """
        sums, counts = (np.frombuffer(values) for values in (self._sums, self._counts))
        sums, counts = sums[counts > 0], counts[counts > 0]
        generator, means = np.random.default_rng(0), []
        for _ in range(0, DRAWS, DRAWS_AT_ONCE):
            draws = generator.integers(0, len(sums), (DRAWS_AT_ONCE, len(sums)))
            means.append(sums[draws].sum(1) / counts[draws].sum(1))
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = np.percentile(np.concatenate(means), (tail, 100 - tail))
        return Interval(mean=float(sums.sum() / counts.sum()), low=float(low), high=float(high))
