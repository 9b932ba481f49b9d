"""A drawing is lines, dots, cells and words in CSS pixels: the page writes it as SVG, `save_png` through matplotlib.

What a thing looks like is its ``role``: a CSS class in the page (report.css), a colour here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ...optional import importing

CSS_PIXELS_PER_INCH = 96
PNG_SCALE = 2
TEXT_SIZE = 12
DEEPEST = 0.6  # of a cell, so that what is written in it stays readable
CHARACTER_WIDTH = 6.6  # of mixed text at TEXT_SIZE, to reserve space; fonts differ by a tenth

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1; y grows downwards."""

COLOURS = {
    "grid": "#e3e5e8",
    "axis": "#8a9096",
    "interval": "#0b6e69",
    "interval faint": "#a9cfcc",
    "front": "#a9cfcc",
    "budget": "#b3261e",
    "point": "#0b6e69",
    "hollow": "#6fb0ac",
    "dense": "#16181a",
    "label": "#16181a",
    "soft": "#5c6269",
    "title": "#16181a",
}
WIDTHS = {"grid": 1.0, "axis": 1.0, "interval": 1.6, "interval faint": 1.2, "front": 1.4, "budget": 1.2}


@dataclass(frozen=True)
class Line:
    x1: float
    y1: float
    x2: float
    y2: float
    role: str


@dataclass(frozen=True)
class Dot:
    """``title`` is what the page shows on hovering; ``hollow`` ones are only outlined."""

    x: float
    y: float
    radius: float
    role: str
    title: str = ""


@dataclass(frozen=True)
class Cell:
    """A filled rectangle; ``shade`` in [0, 1] from paper to as deep as text on it allows."""

    box: Box
    shade: float


@dataclass(frozen=True)
class Text:
    """Words at (x, y), the middle of their height."""

    x: float
    y: float
    text: str
    role: str
    anchor: Literal["start", "middle", "end"] = "start"


@dataclass(frozen=True)
class Drawing:
    """``label`` says in words what is drawn, for those who do not see it."""

    width: float
    height: float
    label: str
    lines: list[Line] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)

    def moved(self, right: float, down: float) -> Drawing:
        """The same, further right and down on a sheet of the same size."""
        boxes = [(c.box[0] + right, c.box[1] + down, c.box[2] + right, c.box[3] + down) for c in self.cells]
        return replace(
            self,
            lines=[
                replace(one, x1=one.x1 + right, y1=one.y1 + down, x2=one.x2 + right, y2=one.y2 + down)
                for one in self.lines
            ],
            dots=[replace(dot, x=dot.x + right, y=dot.y + down) for dot in self.dots],
            cells=[replace(cell, box=box) for cell, box in zip(self.cells, boxes, strict=True)],
            texts=[replace(text, x=text.x + right, y=text.y + down) for text in self.texts],
        )


def stacked(drawings: Sequence[Drawing]) -> Drawing:
    """The drawings below one another as one."""
    label = "; ".join(drawing.label for drawing in drawings)
    sheet = Drawing(max(drawing.width for drawing in drawings), sum(drawing.height for drawing in drawings), label)
    top = 0.0
    for drawing in drawings:
        moved = drawing.moved(0, top)
        for things in ("lines", "dots", "cells", "texts"):
            getattr(sheet, things).extend(getattr(moved, things))
        top += drawing.height
    return sheet


def save_png(drawing: Drawing, path: Path) -> None:
    """Write ``drawing`` on white, two pixels for each of CSS.

    Raises:
        EnvironmentProblem: matplotlib is not installed.
    """
    with importing("matplotlib", "a report's plots"):
        from matplotlib.figure import Figure
        from matplotlib.patches import Circle, Rectangle
    figure = Figure(
        figsize=(drawing.width / CSS_PIXELS_PER_INCH, drawing.height / CSS_PIXELS_PER_INCH), facecolor="white"
    )
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, drawing.width)
    axes.set_ylim(drawing.height, 0)
    axes.set_axis_off()
    point = 72 / CSS_PIXELS_PER_INCH
    for cell in drawing.cells:
        x0, y0, x1, y1 = cell.box
        colour = tuple(1 - DEEPEST * cell.shade * (1 - c) for c in (0x0B / 255, 0x6E / 255, 0x69 / 255))
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor=colour, linewidth=0))
    for line in drawing.lines:
        style = (0, (4, 3)) if line.role == "budget" else "solid"
        axes.plot(
            (line.x1, line.x2),
            (line.y1, line.y2),
            color=COLOURS[line.role],
            linewidth=WIDTHS[line.role] * point,
            linestyle=style,
            solid_capstyle="butt",
        )
    for dot in drawing.dots:
        fill = "white" if dot.role == "hollow" else COLOURS[dot.role]
        circle = Circle((dot.x, dot.y), dot.radius, facecolor=fill, edgecolor=COLOURS[dot.role], linewidth=1.5 * point)
        circle.set_zorder(3)
        axes.add_patch(circle)
    for text in drawing.texts:
        axes.text(
            text.x,
            text.y,
            text.text,
            color=COLOURS[text.role],
            fontsize=TEXT_SIZE * point,
            fontweight="bold" if text.role == "title" else "normal",
            ha={"start": "left", "middle": "center", "end": "right"}[text.anchor],
            va="center",
            zorder=4,
            parse_math=False,  # a dollar in a name is a dollar
        )
    figure.savefig(path, dpi=CSS_PIXELS_PER_INCH * PNG_SCALE, format="png")
