"""The report's plots as PNG, for papers and chats: white background, two pixels for each of CSS."""

from __future__ import annotations

from pathlib import Path

from ...artifacts import output_file
from . import sensitivity
from .drawing import CHARACTER_WIDTH, TEXT_SIZE, Drawing, Text, save_png, stacked
from .pareto import Panel, draw, evaluation_panels, tuning_panel
from .records import Evaluation, Tuning

WIDTH, HEIGHT, MARGIN, TITLE, ROW = 800, 420, 12, 34, 20


def write_plots(folder: Path, evaluation: Evaluation | None, tuning: Tuning | None) -> list[Path]:
    """Write ``pareto.png`` and, of a tuning, ``sensitivity.png`` into ``folder``.

    Returns:
        The files written.

    Raises:
        InvalidInput: ``folder`` cannot be written.
        EnvironmentProblem: the disk is full.
    """
    sheets = []
    if tuning is not None:
        sheets.append(_titled(tuning_panel(tuning)))
    if evaluation is not None:
        sheets.extend(map(_titled, evaluation_panels(evaluation)))
        sheets.append(_key([variant.name for variant in evaluation.variants[1:]]))
    drawings = {"pareto.png": stacked(sheets)}
    if tuning is not None:
        drawings["sensitivity.png"] = sensitivity.draw(sensitivity.heat_map(tuning))
    for name, drawing in drawings.items():
        with output_file(folder / name) as partial:
            save_png(drawing, partial)
    return [folder / name for name in drawings]


def _titled(panel: Panel) -> Drawing:
    title = Drawing(WIDTH, TITLE, panel.title, texts=[Text(MARGIN, 20, panel.title, "title")])
    return stacked([title, draw(panel, WIDTH - 2 * MARGIN, HEIGHT).moved(MARGIN, 0)])


def _key(names: list[str]) -> Drawing:
    """Which number is which variant."""
    widest = int((WIDTH - 48) / CHARACTER_WIDTH)
    texts = []
    for row, name in enumerate(names):
        y = TEXT_SIZE + ROW * row
        shown = name if len(name) <= widest else f"{name[: widest - 1]}\u2026"
        texts += [Text(30, y, str(row + 1), "label", "end"), Text(40, y, shown, "soft")]
    return Drawing(WIDTH, ROW * len(names) + 12, "key", texts=texts)
