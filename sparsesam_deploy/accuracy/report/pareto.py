"""Cost against change of mean IoU: which points there are, and how a panel of them is laid out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...optional import importing
from .drawing import CHARACTER_WIDTH, TEXT_SIZE, Box, Dot, Drawing, Line, Text
from .records import Cost, Evaluation, Interval, Tuning
from .words import flipped, plain, signed, span

LEFT, RIGHT, TOP, BOTTOM = 64, 18, 34, 52
RADIUS = 4.5
COST_WORDS = {"flops": "multiplications, share of the dense encoder\u2019s", "ms": "encoder time in ms"}
DENSE = "dense"


@dataclass(frozen=True)
class Point:
    """One schedule in a plot; ``mark`` is written beside it, ``role`` is one of drawing.COLOURS."""

    name: str
    mark: str
    cost: float
    change: Interval
    role: str

    @property
    def title(self) -> str:
        return f"{self.name}: cost {plain(self.cost)}, change {signed(self.change.mean)} ({span(self.change)})"


@dataclass(frozen=True)
class Panel:
    """The points of one plot.

    ``measure`` is a field of `Cost`; ``budget`` the largest drop allowed, ``limit`` the largest cost, if any.
    """

    title: str
    measure: str
    points: tuple[Point, ...]
    budget: float | None = None
    limit: float | None = None


def evaluation_panels(evaluation: Evaluation) -> list[Panel]:
    """One panel for each kind of prompt; points carry the row numbers of the table of results."""
    measure = _measure(variant.cost for variant in evaluation.variants)
    panels = []
    for index, prompt in enumerate(evaluation.prompts):
        points = tuple(
            Point(
                variant.name,
                str(number) if number else DENSE,
                getattr(variant.cost, measure),
                variant.scores[index].iou_change,
                "point" if number else "dense",
            )
            for number, variant in enumerate(evaluation.variants)
        )
        panels.append(Panel(prompt, measure, points))
    return panels


def tuning_panel(tuning: Tuning) -> Panel:
    """Every schedule on the calibration images (hollow) and, where it was validated, on unseen ones (filled)."""
    points = []
    marks = {tuning.chosen: "chosen", tuning.compared: "compared"}
    for point in tuning.points:
        cost = getattr(point.cost, tuning.cost_measure)
        name = f"{point.name}, calibration images"
        points.append(Point(name, "", cost, flipped(point.calibration), "hollow"))
        if point.validation is not None:
            change = flipped(point.validation)
            points.append(Point(f"{point.name}, validation images", marks.get(point.name, ""), cost, change, "point"))
    title = f"{', '.join(tuning.prompts)}; filled: validation images, hollow: calibration images"
    limit = tuning.budget.get("target_ms" if tuning.cost_measure == "ms" else "max_cost")
    return Panel(title, tuning.cost_measure, tuple(points), tuning.budget.get("max_miou_drop"), limit)


def front(points: Iterable[Point]) -> list[Point]:
    """Those that no other point beats in cost without being worse in mean IoU, by rising cost."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.change.mean)):
        if not best or point.change.mean > best[-1].change.mean:
            best.append(point)
    return best


def draw(panel: Panel, width: float, height: float) -> Drawing:
    """Lay out a panel in ``width`` x ``height`` CSS pixels."""
    shown = [p for p in panel.points if math.isfinite(p.cost) and math.isfinite(p.change.mean)]
    label = f"Cost against change of mean IoU, {panel.title}: {'; '.join(p.title for p in shown) or 'no points'}"
    drawing = Drawing(width, height, label)
    budget = [] if panel.budget is None else [-panel.budget]
    limit = [] if panel.limit is None else [panel.limit]
    changes = [v for p in shown for v in (p.change.low, p.change.mean, p.change.high) if math.isfinite(v)]
    left, right, x_ticks = _axis([*(p.cost for p in shown), *limit], width / 65)
    lowest, highest, y_ticks = _axis([0.0, *changes, *budget], height / 60)
    x0, x1, y0, y1 = LEFT, width - RIGHT, height - BOTTOM, TOP

    def x(cost: float) -> float:
        return x0 + (cost - left) / (right - left) * (x1 - x0)

    def y(change: float) -> float:
        return y0 + (change - lowest) / (highest - lowest) * (y1 - y0)

    for tick in y_ticks:
        drawing.lines.append(Line(x0, y(tick), x1, y(tick), "axis" if tick == 0 else "grid"))
        drawing.texts.append(Text(x0 - 8, y(tick), signed(tick, _digits(y_ticks)), "soft", "end"))
    for tick in x_ticks:
        drawing.texts.append(Text(x(tick), y0 + 16, plain(tick, _digits(x_ticks)), "soft", "middle"))
    drawing.texts.append(Text(x1, y0 + 38, COST_WORDS[panel.measure], "soft", "end"))
    drawing.texts.append(Text(0, 12, "change of mean IoU from dense", "soft"))
    if panel.budget is not None:
        drawing.lines.append(Line(x0, y(-panel.budget), x1, y(-panel.budget), "budget"))
        drawing.texts.append(Text(x1, y(-panel.budget) + 10, f"budget {signed(-panel.budget)}", "soft", "end"))
    if panel.limit is not None:
        drawing.lines.append(Line(x(panel.limit), y0, x(panel.limit), y1, "budget"))
        drawing.texts.append(Text(x(panel.limit) + 5, y0 - 9, f"at most {panel.limit:g}", "soft"))
    best = front(p for p in shown if p.role != "hollow")
    drawing.lines.extend(
        Line(x(a.cost), y(a.change.mean), x(b.cost), y(b.change.mean), "front") for a, b in pairwise(best)
    )
    taken: list[Box] = [(x0, y(level) - 1, x1, y(level) + 1) for level in [0.0, *budget]]
    for point in shown:
        if math.isfinite(point.change.low) and math.isfinite(point.change.high):
            role = "interval faint" if point.role == "hollow" else "interval"
            at, low, high = x(point.cost), y(point.change.low), y(point.change.high)
            drawing.lines.append(Line(at, low, at, high, role))
            taken.append((at - 1, high, at + 1, low))
    for point in shown:
        radius = RADIUS - 1 if point.role == "hollow" else RADIUS
        across, up = x(point.cost), y(point.change.mean)
        drawing.dots.append(Dot(across, up, radius, point.role, point.title))
        taken.append((across - radius, up - radius, across + radius, up + radius))
    for point in (p for p in shown if p.mark):
        text = _place(point.mark, x(point.cost), y(point.change.mean), (x0, y1, x1, y0), taken)
        drawing.texts.append(text)
        taken.append(_box(text))
    return drawing


def _measure(costs: Iterable[Cost]) -> str:
    """Milliseconds where every encoder was timed; one that was not cannot stand beside one that was."""
    return "ms" if all(cost.ms is not None for cost in costs) else "flops"


def _axis(values: Sequence[float], count: float) -> tuple[float, float, list[float]]:
    """Ends of an axis that has room for ``values``, and about ``count`` round numbers on it."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < 1e-9:
        low, high = low - 0.01, high + 0.01
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    with importing("matplotlib", "a report's plots"):
        from matplotlib.ticker import MaxNLocator
    ticks = MaxNLocator(nbins=max(3, int(count)), steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return low, high, [0.0 if abs(tick) < 1e-12 else float(tick) for tick in ticks if low <= tick <= high]


def _digits(ticks: Sequence[float]) -> int:
    """Decimals that tell two ticks apart."""
    step = ticks[1] - ticks[0]
    return next((digits for digits in range(7) if abs(round(step, digits) - step) < 1e-9), 7)


def _place(words: str, x: float, y: float, area: Box, taken: Sequence[Box]) -> Text:
    """``words`` beside (x, y), on the side where they cover least of what is there."""
    away, up = RADIUS + 5, TEXT_SIZE * 0.9
    sides = [
        Text(x + away, y, words, "label", "start"),
        Text(x + away, y - up, words, "label", "start"),
        Text(x - away, y, words, "label", "end"),
        Text(x + away, y + up, words, "label", "start"),
        Text(x - away, y - up, words, "label", "end"),
        Text(x - away, y + up, words, "label", "end"),
    ]

    def covered(text: Text) -> float:
        box = _box(text)
        width, height = box[2] - box[0], box[3] - box[1]
        outside = width * height - _overlap(box, area)
        return sum(_overlap(box, other) for other in taken) + 10 * outside

    return min(sides, key=covered)


def _box(text: Text) -> Box:
    width = CHARACTER_WIDTH * len(text.text)
    left = {"start": text.x, "middle": text.x - width / 2, "end": text.x - width}[text.anchor]
    return left, text.y - TEXT_SIZE / 2, left + width, text.y + TEXT_SIZE / 2


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
