"""The targets in docs/performance.md, and by how much each was missed. Missing one fails no check."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from benchmarks import encoder_speed

SPEED_UP = {"vit_b": 7.0, "vit_l": 6.0, "vit_h": 5.0}
OF_FLOOR = 1.35
OF_SDPA = {0.4: 0.5, 1.0: 1.25}
OF_EAGER_MEMORY = {1: 1 / 10, 8: 1 / 12}
JUDGED = (encoder_speed.DEFAULT, "density 0.4")


@dataclass(frozen=True)
class Target:
    """``value`` is to be at most ``limit``, or at least where ``at_least``; None where nothing was measured."""

    name: str
    value: float | None
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def verdict(self) -> str:
        """``met``, ``missed by 12 %`` of the limit, or ``not measured``."""
        if self.value is None:
            return "not measured"
        return "met" if self.met else f"missed by {100 * abs(self.value / self.limit - 1):.0f} %"

    def as_json(self) -> dict:
        return {**asdict(self), "verdict": self.verdict}


def attention_targets(results: dict | None) -> Iterator[Target]:
    """Our lattice kernel against SDPA without bias, batch 1."""
    for family in SPEED_UP:
        for density, limit in OF_SDPA.items():
            row = _row((results or {}).get("rows", ()), family, f"lattice, density {density:g}", 1)
            yield Target(f"{family} attention, density {density:g}, of SDPA", row.get("ratio_to_sdpa"), limit)


def encoder_targets(results: dict[str, dict]) -> Iterator[Target]:
    """The encoder against eager and against its own products, its memory, and a dense control that was timed."""
    for family, speed_up in SPEED_UP.items():
        rows = results.get(family, {}).get("rows", ())
        for name in JUDGED:
            row = _row(rows, family, name, 1)
            yield Target(f"{family} encoder, {name}, speed-up", row.get("speed_up"), speed_up, at_least=True)
            yield Target(f"{family} encoder, {name}, of its products", row.get("of_floor"), OF_FLOOR)
        for batch, limit in OF_EAGER_MEMORY.items():
            row = _row(rows, family, encoder_speed.DEFAULT, batch)
            yield Target(f"{family} activations, batch {batch}, of eager", row.get("memory_of_eager"), limit)
        dense = _row(rows, family, "density 1", 1)
        timed = 1.0 if dense.get("timing") else None
        yield Target(f"{family} fused dense control is in the table", timed, 1.0, at_least=True)


def targets(attention: dict | None, encoder: dict[str, dict]) -> list[Target]:
    return [*encoder_targets(encoder), *attention_targets(attention)]


def _row(rows, family: str, name: str, batch: int) -> dict:
    wanted = (family, name, batch)
    return next((row for row in rows if (row["family"], row["name"], row["batch"]) == wanted), {})
