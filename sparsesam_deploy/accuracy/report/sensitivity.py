"""What each knob of each block costs alone, as a table with shades: `heat_map` for the page, `draw` for the PNG."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .drawing import Cell, Drawing, Text
from .records import Knob, Sensitivity, Tuning
from .words import KNOBS, NOTHING, percent, plain

LEFT, TOP, BOTTOM = 190, 62, 14
CELL_WIDTH, CELL_HEIGHT = 46, 26
PER_MILLE = 1000


@dataclass(frozen=True)
class Column:
    knob: Knob
    density: float

    @property
    def words(self) -> str:
        return f"{KNOBS[self.knob]} at {self.density:g}"


@dataclass(frozen=True)
class HeatMap:
    """Rows are ``blocks``, columns knobs and densities; `cell` is None where nothing was measured."""

    blocks: tuple[int, ...]
    columns: tuple[Column, ...]
    found: dict[tuple[int, Column], Sensitivity]

    @property
    def knobs(self) -> list[tuple[str, int]]:
        """Each knob in words, and how many columns it has."""
        counts: dict[str, int] = {}
        for column in self.columns:
            counts[column.knob] = counts.get(column.knob, 0) + 1
        return [(KNOBS[knob], count) for knob, count in counts.items()]

    def cell(self, block: int, column: Column) -> Sensitivity | None:
        return self.found.get((block, column))

    def shade(self, cell: Sensitivity) -> float:
        """0 to 1; the root, because a few blocks cost many times what the others do."""
        worst = max((s.disagreement for s in self.found.values() if math.isfinite(s.disagreement)), default=0.0)
        share = cell.disagreement / worst if worst > 0 else 0.0
        return math.sqrt(min(max(share, 0.0), 1.0)) if math.isfinite(share) else 0.0


def heat_map(tuning: Tuning) -> HeatMap:
    found = {(s.block, Column(s.knob, s.density)): s for s in tuning.sensitivities}
    order = list(KNOBS)
    columns = sorted({column for _, column in found}, key=lambda column: (order.index(column.knob), -column.density))
    return HeatMap(tuple(sorted({block for block, _ in found})), tuple(columns), found)


def draw(heat: HeatMap) -> Drawing:
    """The table with blocks from left to right, as wide as it needs."""
    width = LEFT + CELL_WIDTH * len(heat.blocks) + 20
    height = TOP + CELL_HEIGHT * len(heat.columns) + BOTTOM
    drawing = Drawing(max(width, 560), height, "Disagreement with the dense masks, by block, knob and density")
    drawing.texts.append(
        Text(12, 16, "1 \u2212 IoU with the dense masks, in thousandths; one knob of one block", "title")
    )
    drawing.texts.append(Text(LEFT - 12, 44, "block", "soft", "end"))
    for place, block in enumerate(heat.blocks):
        drawing.texts.append(Text(LEFT + CELL_WIDTH * (place + 0.5), 44, str(block), "soft", "middle"))
    for row, column in enumerate(heat.columns):
        y = TOP + CELL_HEIGHT * row
        drawing.texts.append(Text(LEFT - 12, y + CELL_HEIGHT / 2, column.words, "label", "end"))
        for place, block in enumerate(heat.blocks):
            if (cell := heat.cell(block, column)) is not None:
                x, shade = LEFT + CELL_WIDTH * place, heat.shade(cell)
                drawing.cells.append(Cell((x + 1, y + 1, x + CELL_WIDTH - 1, y + CELL_HEIGHT - 1), shade))
                middle = (x + CELL_WIDTH / 2, y + CELL_HEIGHT / 2)
                drawing.texts.append(Text(*middle, thousandths(cell), "label", "middle"))
    return drawing


def thousandths(cell: Sensitivity | None) -> str:
    return NOTHING if cell is None else plain(PER_MILLE * cell.disagreement, 2 if cell.disagreement < 0.01 else 1)


def in_words(cell: Sensitivity) -> str:
    """What the page shows on hovering over a cell."""
    return (
        f"block {cell.block}, {KNOBS[cell.knob]} at density {cell.density:g}: "
        f"disagreement {plain(cell.disagreement, 5)}, saves {percent(cell.saved, 2)} of the dense cost"
    )
