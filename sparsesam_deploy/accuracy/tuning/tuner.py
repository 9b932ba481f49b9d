"""``tune``: a density for every block within an accuracy budget, every schedule in the answer really evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from rich.console import Console

from ...errors import CheckFailed, InvalidInput
from ...model.checkpoint import LoadedSam
from ...progress import counted
from ..evaluation.multiplications import cost_of_choice
from ..report.records import Cost, ParetoPoint, Sensitivity, Step
from .cost_table import CostTable
from .descent import Descender, Descent, sensitivity, single_moves
from .measurements import Measurement, Measurements, ScheduledSparsity
from .schedule import Schedule, SearchSpace

STRIDE = 0.02
"""A schedule is measured whenever this share of the dense cost was saved since the last one."""
PERCENT = 100
"""The way from the dense cost to the one that is asked for, or to the lowest."""
PATIENCE = 2
"""Measured schedules over the budget, one after the other, that end the search."""


@dataclass(frozen=True)
class Budget:
    """What is asked: a loss of mean IoU at most, milliseconds at most, a share of the dense multiplications at most."""

    max_miou_drop: float | None = None
    target_ms: float | None = None
    max_cost: float | None = None

    @property
    def cost(self) -> float | None:
        """The cost that must be reached, in the unit of the cost table."""
        return self.max_cost if self.target_ms is None else self.target_ms


@dataclass
class MeasuredSchedule:
    """A schedule that was evaluated on the calibration images, and perhaps on those for validation."""

    name: str
    scheduled: ScheduledSparsity
    cost: Cost
    calibration: Measurement
    validation: Measurement | None = None

    def result(self) -> ParetoPoint:
        return ParetoPoint(
            name=self.name,
            settings=asdict(self.scheduled.sparsity),
            cost=self.cost,
            calibration=self.calibration.loss,
            validation=None if self.validation is None else self.validation.loss,
        )


@dataclass
class Search:
    """What the search found, in order; ``points`` start with the dense encoder."""

    sensitivities: list[Sensitivity]
    points: list[MeasuredSchedule]
    steps: list[Step] = field(default_factory=list)


class Tuner:
    """Finds a schedule of ``space`` for ``budget`` on ``calibration`` and holds it against ``validation``.

    ``table`` gives the cost that the search goes by: milliseconds where ``budget`` names some, else multiplications.
    """

    def __init__(
        self,
        loaded: LoadedSam,
        space: SearchSpace,
        calibration: Measurements,
        validation: Measurements,
        table: CostTable,
        budget: Budget,
        console: Console,
    ) -> None:
        self.loaded, self.space = loaded, space
        self.calibration, self.validation, self.table, self.budget = calibration, validation, table, budget
        self.console = console
        self.dense = space.dense
        self.dense_cost = table.total(self.dense, space)
        cheapest = {knob: min(table.of(knob, rung) for rung in ladder) for knob, ladder in space.ladders.items()}
        self.lowest_cost = table.fixed + sum(cheapest[knob] for _, knob in space.knobs())

    def search(self) -> Search:
        """Measure what each knob costs alone, then follow the cheapest moves down and measure on the way."""
        self._check_budget()
        moves = single_moves(self.space)
        schedules = [ScheduledSparsity.of(self.dense.after(move)) for move in moves]
        with self._counted("sensitivity of blocks", self.calibration, len(schedules)) as advance:
            measurements = self.calibration(schedules, advance)
        found = Search(
            [
                sensitivity(move, measurement.disagreement.mean, self.table, self.dense_cost)
                for move, measurement in zip(moves, measurements, strict=True)
            ],
            [self._measured("dense", ScheduledSparsity.of(self.dense), self._priced(self.dense))],
        )
        measured_at, over = self.dense_cost, 0
        goal, before = self.lowest_cost if self.budget.cost is None else self.budget.cost, self.dense_cost
        with counted(self.console, "search", PERCENT) as advance:
            for number, descent in enumerate(Descender(found.sensitivities, self.table, self.space), start=1):
                arrived = self.budget.cost is not None and descent.cost <= self.budget.cost
                measurement = None
                if arrived or measured_at - descent.cost >= STRIDE * self.dense_cost:
                    point = self._measured(
                        f"step {number}", ScheduledSparsity.of(descent.schedule), self._priced(descent.schedule)
                    )
                    found.points.append(point)
                    measured_at, measurement = descent.cost, point.calibration
                    way = (self.dense_cost - descent.cost) / (self.dense_cost - goal)
                    advance(round(PERCENT * min(way, 1)), f"step {number}, cost {descent.cost / self.dense_cost:.2f}")
                found.steps.append(self._step(number, descent, before, measurement))
                before = descent.cost
                if measurement is not None:
                    over = over + 1 if self._over(measurement) else 0
                if arrived or over == PATIENCE:
                    break
        return found

    def _check_budget(self) -> None:
        """Refuse a cost that needs no search or that no search can reach, before hours are spent on it."""
        if self.budget.cost is None:
            return
        words = "ms" if self.table.measure == "ms" else "of the dense work"
        if self.budget.cost >= self.dense_cost:
            raise InvalidInput(
                f"the dense encoder takes {self.dense_cost:.3g} {words}, which meets the budget already; ask for less."
            )
        if self.budget.cost < self.lowest_cost:
            raise InvalidInput(
                f"a budget of {self.budget.cost:g} {words} cannot be reached; give {self.lowest_cost:.3g} or more."
            )

    def _measured(self, name: str, scheduled: ScheduledSparsity, cost: Cost) -> MeasuredSchedule:
        return MeasuredSchedule(name, scheduled, cost, self.calibration([scheduled])[0])

    def _priced(self, schedule: Schedule) -> Cost:
        """Counted work, and the table's milliseconds where it has some."""
        work = cost_of_choice(self.loaded.sam.image_encoder, self.space.config, schedule.sparsity)
        if self.table.measure == "flops":
            return work
        return work.model_copy(update={"ms": self.table.total(schedule, self.space)})

    def _step(self, number: int, descent: Descent, before: float, measurement: Measurement | None) -> Step:
        return Step(
            number=number,
            **vars(descent.move),
            saved=(before - descent.cost) / self.dense_cost,
            cost=self._priced(descent.schedule),
            predicted=descent.predicted,
            disagreement=None if measurement is None else measurement.disagreement.mean,
            loss=None if measurement is None else measurement.loss,
        )

    def _over(self, measurement: Measurement) -> bool:
        return self.budget.max_miou_drop is not None and measurement.loss.mean > self.budget.max_miou_drop

    def choose(self, found: Search) -> MeasuredSchedule:
        """The schedule to build: within the budget on the calibration images and on those it has not seen.

        With a cost to reach it is the first measured one that does; else the cheapest within the loss. Where the
        images for validation lose more than the budget, the one before it on the way is tried, and so on.

        Raises:
            CheckFailed: no measured schedule but the dense one meets the budget.
        """
        points = found.points
        if self.budget.cost is not None:
            points = [point for point in points if self._unit(point.cost) <= self.budget.cost][:1]
        for point in reversed([point for point in points if not self._over(point.calibration)]):
            if point.name == "dense":
                break
            if not self._over(self.validate(point)):
                return point
        best = min(found.points[1:], key=lambda point: point.calibration.loss.mean, default=found.points[0])
        raise CheckFailed(
            f"no schedule meets {self._words()}: the one that lost least ({best.name}) lost "
            f"{best.calibration.loss.mean:.4f} of mean IoU at {self._unit(best.cost) / self.dense_cost:.2f} of the "
            "dense cost; allow more."
        )

    def _unit(self, cost: Cost) -> float:
        """What the search goes by."""
        if self.table.measure == "flops":
            return cost.flops
        assert cost.ms is not None  # see `_priced`
        return cost.ms

    def _words(self) -> str:
        asked = {
            "a drop of mean IoU of at most {:g}": self.budget.max_miou_drop,
            "at most {:g} ms": self.budget.target_ms,
            "at most {:g} of the dense cost": self.budget.max_cost,
        }
        return " and ".join(words.format(value) for words, value in asked.items() if value is not None)

    def validate(self, point: MeasuredSchedule) -> Measurement:
        """Evaluate ``point`` on the images that the search did not see."""
        with self._counted(f"validate {point.name}", self.validation, 1) as advance:
            (measurement,) = self.validation([point.scheduled], advance)
        point.validation = measurement
        return measurement

    def uniform(self, chosen: MeasuredSchedule) -> MeasuredSchedule:
        """One density for all blocks, the lowest that costs no less than ``chosen``; evaluated like it."""
        for density, schedule in self.space.uniform():
            name, cost = f"uniform {density:g}", self._priced(schedule)
            if self._unit(cost) >= self._unit(chosen.cost):
                break
        point = self._measured(name, ScheduledSparsity.of(schedule), cost)
        self.validate(point)
        return point

    @contextmanager
    def _counted(self, name: str, measurements: Measurements, schedules: int) -> Iterator[Callable[[int, str], None]]:
        with counted(self.console, name, schedules * len(measurements.dataset.names), unit="images") as advance:
            yield advance
