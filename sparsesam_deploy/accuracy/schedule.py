"""A density for every block, and the ladder that a search climbs down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..model.config import SamConfig, SparsityConfig
from .results import Knob

LADDERS: dict[Knob, tuple[float, ...]] = {
    "attention": (1.0, 0.25, 0.125, 0.0625),
    "mlp": (1.0, 0.7, 0.5, 0.4, 0.3, 0.25),
    "windowed": (1.0, 0.7, 0.5, 0.4),
}
"""Densities that a knob may have. Between 1 and 0.25 thinning global attention costs nothing that can be measured on
the nano model; below 0.4 the rows of windowed attention are too few for anything."""


@dataclass(frozen=True)
class Move:
    """One knob of one block turned down."""

    block: int
    knob: Knob
    before: float
    after: float


@dataclass(frozen=True)
class Schedule:
    """Densities of all blocks; ``windowed`` shares the rows of windowed blocks' attention.

    A global block has no ``windowed`` density and a windowed one no ``attention`` density; they are 1 there.
    """

    attention: tuple[float, ...]
    mlp: tuple[float, ...]
    windowed: tuple[float, ...]

    @classmethod
    def dense(cls, depth: int) -> Schedule:
        return cls(*((1.0,) * depth for _ in range(3)))

    @property
    def sparsity(self) -> SparsityConfig:
        """In the lattice order, with shared rows: what needs no decision of an earlier block."""
        return SparsityConfig(
            attention_density=self.attention,
            mlp_density=self.mlp,
            windowed_density=self.windowed,
            windowed_routing="share-variance",
        )

    def after(self, move: Move) -> Schedule:
        densities = list(getattr(self, move.knob))
        densities[move.block] = move.after
        return replace(self, **{move.knob: tuple(densities)})

    def moves(self, config: SamConfig) -> Iterator[Move]:
        """Every knob turned down to every lower rung of its ladder."""
        for block, knob in knobs(config):
            before = getattr(self, knob)[block]
            for density in LADDERS[knob]:
                if density < before:
                    yield Move(block, knob, before, density)

    @property
    def first_thinned(self) -> int:
        """The first block that is not dense; the number of blocks if all are."""
        thinned = (min(of_block) < 1 for of_block in zip(self.attention, self.mlp, self.windowed, strict=True))
        return next((index for index, thin in enumerate(thinned) if thin), len(self.mlp))


def knobs(config: SamConfig) -> Iterator[tuple[int, Knob]]:
    """The knobs of each block: its attention by its kind, and its MLP."""
    for block in range(config.depth):
        yield block, "attention" if block in config.global_blocks else "windowed"
        yield block, "mlp"
