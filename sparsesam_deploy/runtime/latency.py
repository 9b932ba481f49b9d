"""How long calls take: a few figures of a list of times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Latency:
    """Times of ``count`` calls of ``batch`` images each, one after another, in milliseconds."""

    batch: int
    count: int
    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, batch: int, milliseconds: Sequence[float]) -> Latency:
        """Percentiles are interpolated linearly between the times next to them."""
        p50, p90, p99 = (float(value) for value in np.percentile(milliseconds, (50, 90, 99)))
        return cls(batch, len(milliseconds), float(np.mean(milliseconds)), p50, p90, p99)

    @property
    def images_per_second(self) -> float:
        return 1000 * self.batch / self.mean

    def as_json(self) -> dict[str, float]:
        """The figures by name."""
        return {**asdict(self), "images_per_second": self.images_per_second}
