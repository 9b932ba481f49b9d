"""Some images of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from .dataset import Dataset, LabelledImage


class Subset:
    """Images ``indices`` of ``dataset``, in that order."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self._dataset, self._indices = dataset, tuple(indices)
        self.names: Sequence[str] = [dataset.names[index] for index in self._indices]
        self.description = f"{dataset.description}, {len(self.names)} of {len(dataset.names)} images"
        self.has_truth, self.left_out = dataset.has_truth, dataset.left_out
        self.fingerprint = hashlib.sha256("\n".join((dataset.fingerprint, *self.names)).encode()).hexdigest()

    def load(self, index: int) -> LabelledImage:
        """Decode image ``index`` of these; raises as the data set does."""
        return self._dataset.load(self._indices[index])


def evenly(count: int, chosen: int) -> list[int]:
    """``chosen`` of ``count`` positions, evenly spread."""
    return [index * count // chosen for index in range(chosen)]
