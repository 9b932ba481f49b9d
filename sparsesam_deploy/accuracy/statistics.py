"""Means over objects with confidence intervals over images."""

from __future__ import annotations

import numpy as np

from .results import Interval

DRAWS = 2000
CONFIDENCE = 0.95


class Sample:
    """Sums and counts of a figure by image: all that a bootstrap over images needs, however many objects there are.

    Objects of one image are not independent, so images are what is drawn. Several showings of one image (its
    mirrorings) are one image.
    """

    def __init__(self) -> None:
        self._by_image: dict[str, list[float]] = {}

    def add(self, image: str, values: np.ndarray) -> None:
        """Take the values (N,) of the objects of ``image``."""
        entry = self._by_image.setdefault(image, [0.0, 0.0])
        entry[0] += float(np.sum(values))
        entry[1] += len(values)

    def interval(self) -> Interval:
        """Mean over objects, with the percentiles of 2000 bootstrap draws of images (fixed seed)."""
        table = np.array(list(self._by_image.values()))
        sums, counts = table.T
        draws = np.random.default_rng(0).integers(0, len(table), (DRAWS, len(table)))
        means = sums[draws].sum(1) / counts[draws].sum(1)
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = np.percentile(means, (tail, 100 - tail))
        return Interval(mean=float(sums.sum() / counts.sum()), low=float(low), high=float(high))
