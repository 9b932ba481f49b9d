"""A density for every block, and the ladders that a search climbs down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ...model.config import Routing, SamConfig, SparsityConfig
from ...ops.routing import ROUTING_RULES
from ..report.records import Knob

Ladders = dict[Knob, tuple[float, ...]]

ATTENTION: Ladders = {
    "attention": (1.0, 0.25, 0.125, 0.0625),
    "windowed": (1.0, 0.7, 0.5, 0.4),
}
MLP = (1.0, 0.7, 0.5, 0.4, 0.3)
"""Densities that a knob may have, and MLPs one more: the lowest of `UNIFORM` that their routing can. Between 1 and 0.25
thinning global attention costs nothing that can be measured on the nano model; below 0.4 the rows of windowed attention
are too few for anything."""

UNIFORM = tuple(round(0.05 * index, 2) for index in range(1, 20))
"""Densities for all blocks alike that a tuned schedule may be compared with, where the routing can have them."""


@dataclass(frozen=True)
class Move:
    """One knob of one block turned down."""

    block: int
    knob: Knob
    before: float
    after: float


@dataclass(frozen=True)
class Schedule:
    """Densities of all blocks; MLPs are thinned by ``routing``, ``windowed`` shares the rows of windowed attention.

    A global block has no ``windowed`` density and a windowed one no ``attention`` density; they are 1 there.
    """

    attention: tuple[float, ...]
    mlp: tuple[float, ...]
    windowed: tuple[float, ...]
    routing: Routing

    @property
    def sparsity(self) -> SparsityConfig:
        """In the lattice order, with shared rows: what needs no decision of an earlier block."""
        return SparsityConfig(
            attention_density=self.attention,
            mlp_density=self.mlp,
            windowed_density=self.windowed,
            routing=self.routing,
            windowed_routing="share-variance",
        )

    def after(self, move: Move) -> Schedule:
        densities = list(getattr(self, move.knob))
        densities[move.block] = move.after
        change: dict[str, Any] = {move.knob: tuple(densities)}
        return replace(self, **change)

    @property
    def first_thinned(self) -> int:
        """The first block that is not dense; the number of blocks if all are."""
        thinned = (min(of_block) < 1 for of_block in zip(self.attention, self.mlp, self.windowed, strict=True))
        return next((index for index, thin in enumerate(thinned) if thin), len(self.mlp))


@dataclass(frozen=True)
class SearchSpace:
    """The schedules that a search may choose from: those of ``config`` on the ladders of ``routing``."""

    config: SamConfig
    routing: Routing

    @property
    def ladders(self) -> Ladders:
        lowest = min(density for density in UNIFORM if density >= ROUTING_RULES[self.routing].least)
        return {**ATTENTION, "mlp": (*(density for density in MLP if density > lowest), lowest)}

    @property
    def dense(self) -> Schedule:
        ones = (1.0,) * self.config.depth
        return Schedule(ones, ones, ones, self.routing)

    def knobs(self) -> Iterator[tuple[int, Knob]]:
        """The knobs of each block: its attention by its kind, and its MLP."""
        for block in range(self.config.depth):
            yield block, "attention" if block in self.config.global_blocks else "windowed"
            yield block, "mlp"

    def moves(self, schedule: Schedule) -> Iterator[Move]:
        """Every knob of ``schedule`` turned down to every lower rung of its ladder."""
        for block, knob in self.knobs():
            before = getattr(schedule, knob)[block]
            for density in self.ladders[knob]:
                if density < before:
                    yield Move(block, knob, before, density)

    def uniform(self) -> Iterator[tuple[float, Schedule]]:
        """What one ``--density`` means, from the lowest: that density in global attention and in MLPs."""
        for density in UNIFORM:
            if density >= min(self.ladders["mlp"]):
                choice = SparsityConfig(density, density, routing=self.routing)
                plans = choice.plan(self.config)
                keys, rows = (tuple(getattr(plan, name) for plan in plans) for name in ("key_density", "mlp_density"))
                yield density, replace(self.dense, attention=keys, mlp=rows)
