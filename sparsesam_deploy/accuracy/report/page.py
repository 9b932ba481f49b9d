"""The report as one HTML file that asks nothing of a network; the templates beside it say what stands where."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...artifacts import output_file
from ...errors import InvalidInput
from ...optional import importing
from . import pareto, sensitivity, words
from .drawing import Drawing
from .pictures import Case, CasePictures, KeptTokens, case_pictures, kept_share, thumbnail, veil
from .records import Evaluation, Interval, Score, Tuning, VariantResult

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).with_name("templates")
ONE_PANEL, SEVERAL_PANELS, ON_A_PHONE = (960, 400), (470, 340), (330, 320)


@dataclass(frozen=True)
class Plot:
    """One panel, drawn for a screen and for a phone: text in a picture that shrinks cannot be read."""

    title: str
    wide: Drawing
    narrow: Drawing


@dataclass(frozen=True, eq=False)
class ShownCase:
    case: Case
    pictures: CasePictures


@dataclass(frozen=True)
class Tile:
    """What one block keeps; ``veil`` lies over the photograph of its gallery."""

    block: int
    share: float
    veil: str


@dataclass(frozen=True)
class Gallery:
    """The blocks of one variant on one image; ``photo`` numbers the photographs of the page."""

    variant: str
    image: str
    photo: int
    strips: dict[str, list[Tile]]


@dataclass(frozen=True)
class Whisker:
    """An interval as percentages of its table cell."""

    low: float
    mean: float
    high: float
    zero: float


def write_report(
    path: Path,
    evaluation: Evaluation | None,
    tuning: Tuning | None,
    cases: Sequence[Case],
    kept: Sequence[KeptTokens],
) -> None:
    """Write the HTML report of an evaluation, a tuning or both to ``path``.

    ``cases`` come out by what sparsity lost, worst first; ``kept`` by variant and image, in order of blocks.

    Raises:
        InvalidInput: neither result was given, or ``path`` cannot be written.
        EnvironmentProblem: the disk is full, or a package of the extra ``accuracy`` is not installed.
    """
    if evaluation is None and tuning is None:
        raise InvalidInput(f"{path} would report nothing; give an evaluation, a tuning or both.")
    page = render(evaluation, tuning, cases, kept)
    with output_file(path) as partial:
        partial.write_bytes(page.encode("utf-8", "backslashreplace"))  # file names need not be text


def render(
    evaluation: Evaluation | None, tuning: Tuning | None, cases: Sequence[Case], kept: Sequence[KeptTokens]
) -> str:
    """The page as text. Raises nothing that the models do not."""
    photos, galleries = _galleries(kept)
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    context = {
        "evaluation": evaluation,
        "tuning": tuning,
        "provenances": [result.provenance for result in (tuning, evaluation) if result is not None],
        "datasets": _datasets(evaluation, tuning),
        "evaluation_plots": _plots(pareto.evaluation_panels(evaluation)) if evaluation else [],
        "tuning_plots": _plots([pareto.tuning_panel(tuning)]) if tuning else [],
        "leaders": _leaders(evaluation) if evaluation else [],
        "chosen": _points(tuning)[tuning.chosen] if tuning else None,
        "compared": _points(tuning)[tuning.compared] if tuning else None,
        "heat": sensitivity.heat_map(tuning) if tuning else None,
        "cases": [ShownCase(case, case_pictures(case)) for case in sorted(cases, key=_gain)],
        "photos": photos,
        "galleries": galleries,
        "style": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    }
    return _environment().get_template("page.html.j2").render(context)


@cache
def _environment() -> jinja2.Environment:
    with importing("jinja2", "a report"):
        import jinja2
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,  # whatever the file is called: names of images come from anywhere
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for helper in (
        words.plain,
        words.signed,
        words.percent,
        words.span,
        words.duration,
        words.settings_in_words,
        words.per_block,
        words.cost_in_words,
        words.flipped,
        words.spelled,
        sensitivity.thousandths,
        sensitivity.in_words,
    ):
        environment.filters[helper.__name__] = helper
    environment.globals |= {"KNOBS": words.KNOBS, "whiskers": whiskers}
    return environment


def whiskers(intervals: Iterable[Interval]) -> list[Whisker]:
    """The intervals on one common scale that includes zero."""
    intervals = list(intervals)
    finite = [i for i in intervals if all(abs(v) < float("inf") for v in (i.low, i.mean, i.high))]
    low = min((i.low for i in finite), default=0.0)
    high = max((i.high for i in finite), default=0.0)
    low, high = min(low, 0.0), max(high, 0.0)
    reach = (high - low) or 1.0

    def place(value: float) -> float:
        return 4 + 92 * (value - low) / reach if abs(value) < float("inf") else 4 + 92 * (0 - low) / reach

    return [Whisker(place(i.low), place(i.mean), place(i.high), place(0.0)) for i in intervals]


def _gain(case: Case) -> tuple[float, float]:
    return case.iou - case.dense_iou, case.agreement


def _plots(panels: Sequence[pareto.Panel]) -> list[Plot]:
    size = ONE_PANEL if len(panels) == 1 else SEVERAL_PANELS
    return [Plot(panel.title, pareto.draw(panel, *size), pareto.draw(panel, *ON_A_PHONE)) for panel in panels]


def _points(tuning: Tuning) -> dict[str, Any]:
    return {point.name: point for point in tuning.points}


def _leaders(evaluation: Evaluation) -> list[tuple[str, VariantResult, Score]]:
    """The variants worth a headline, by the first prompt: the cheapest, and the one that loses least."""
    sparse = evaluation.variants[1:]
    if not sparse:
        return []
    cheapest = min(sparse, key=lambda variant: variant.cost.flops)
    closest = max(sparse, key=lambda variant: variant.scores[0].iou_change.mean)
    if cheapest is closest:
        return [("Cheapest and closest to dense" if len(sparse) > 1 else "Sparse", cheapest, cheapest.scores[0])]
    return [("Cheapest", cheapest, cheapest.scores[0]), ("Loses least", closest, closest.scores[0])]


def _datasets(evaluation: Evaluation | None, tuning: Tuning | None) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    if tuning:
        found += [("Calibration", tuning.calibration), ("Validation", tuning.validation)]
    return [*found, ("Evaluation", evaluation.dataset)] if evaluation else found


def _galleries(kept: Sequence[KeptTokens]) -> tuple[list[str], list[Gallery]]:
    """Photographs, each once, and what lies over them."""
    photos: dict[str, int] = {}
    galleries: dict[tuple[str, str], Gallery] = {}
    for tokens in sorted(kept, key=lambda tokens: tokens.block):
        key = (tokens.variant, tokens.image)
        if key not in galleries:
            photo = photos.setdefault(thumbnail(tokens.pixels), len(photos))
            galleries[key] = Gallery(tokens.variant, tokens.image, photo, {})
        tile = Tile(tokens.block, kept_share(tokens), veil(tokens))
        galleries[key].strips.setdefault(tokens.what, []).append(tile)
    order = list(dict.fromkeys((tokens.variant, tokens.image) for tokens in kept))
    return list(photos), [galleries[key] for key in order]
