"""From dense downwards, one knob of one block at a time: which schedules are worth trying, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..report.records import Knob, Sensitivity
from .cost_table import CostTable
from .schedule import Move, Schedule, SearchSpace

SMALLEST = 1e-6
"""Disagreement that any move is taken to cost at least, so that those that cost nothing go by what they save."""


def single_moves(space: SearchSpace) -> list[Move]:
    """Every knob of every block at every rung of its ladder, from dense."""
    return list(space.moves(space.dense))


def sensitivity(move: Move, disagreement: float, table: CostTable, dense_cost: float) -> Sensitivity:
    saved = (table.of(move.knob, move.before) - table.of(move.knob, move.after)) / dense_cost
    return Sensitivity(block=move.block, knob=move.knob, density=move.after, disagreement=disagreement, saved=saved)


@dataclass(frozen=True)
class Descent:
    """One move of the search: ``schedule`` after it, and the disagreement that all moves so far add up to."""

    move: Move
    schedule: Schedule
    cost: float
    predicted: float


class Descender:
    """Takes, again and again, the move that costs the least disagreement for what it saves.

    What a move costs is read from the sensitivities, each measured with everything else dense, and they are taken to
    add up. That orders the moves; what a schedule really loses is measured by whoever follows them.
    """

    def __init__(self, sensitivities: Sequence[Sensitivity], table: CostTable, space: SearchSpace) -> None:
        self.table, self.space = table, space
        self._curves = {half: self._curve(half, sensitivities) for half in space.knobs()}

    def _curve(self, half: tuple[int, Knob], sensitivities: Sequence[Sensitivity]) -> dict[float, float]:
        """Disagreement by density, made monotone: computing less never counts as agreeing more."""
        measured = {one.density: one.disagreement for one in sensitivities if (one.block, one.knob) == half}
        curve, most = {1.0: 0.0}, 0.0
        for rung in self.space.ladders[half[1]][1:]:
            most = max(most, measured[rung])
            curve[rung] = most
        return curve

    def predicted(self, schedule: Schedule) -> float:
        """The sum of what each knob costs alone."""
        return sum(self._curves[block, knob][getattr(schedule, knob)[block]] for block, knob in self.space.knobs())

    def _price(self, move: Move) -> float:
        """Disagreement for each unit of cost saved; infinite where nothing is saved."""
        saved = self.table.of(move.knob, move.before) - self.table.of(move.knob, move.after)
        curve = self._curves[move.block, move.knob]
        return (curve[move.after] - curve[move.before] + SMALLEST) / saved if saved > 0 else float("inf")

    def __iter__(self) -> Iterator[Descent]:
        """From dense until no move saves anything; densities and costs only ever go down."""
        schedule = self.space.dense
        while True:
            moves = [move for move in self.space.moves(schedule) if self._price(move) < float("inf")]
            if not moves:
                return
            move = min(moves, key=self._price)
            schedule = schedule.after(move)
            yield Descent(move, schedule, self.table.total(schedule, self.space), self.predicted(schedule))
