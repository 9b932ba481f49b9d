"""The report's plots: where points lie, which of them is the front, and the PNG files."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from sparsesam_deploy.accuracy.report import pareto, write_plots
from sparsesam_deploy.accuracy.report.drawing import Cell, Dot, Drawing, Line, Text, save_png, stacked
from sparsesam_deploy.accuracy.report.page import whiskers
from sparsesam_deploy.accuracy.report.records import Interval
from sparsesam_deploy.accuracy.report.words import duration, percent, plain, settings_in_words, signed
from sparsesam_deploy.errors import InvalidInput

from .documents import evaluation, interval, tuning

SIZES = {"phone": (330, 320), "small": (470, 340), "wide": (960, 400)}


def point(name: str, cost: float, change: float, role: str = "point") -> pareto.Point:
    return pareto.Point(name, name, cost, interval(change, 0.001), role)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("kind", ["evaluation", "tuning"])
def test_points_lie_where_their_figures_are(kind, size):
    panel = pareto.evaluation_panels(evaluation())[0] if kind == "evaluation" else pareto.tuning_panel(tuning())
    drawing = pareto.draw(panel, *size)
    x, y = np.array([(dot.x, dot.y) for dot in drawing.dots]).T
    cost, change = np.array([(p.cost, p.change.mean) for p in panel.points]).T
    for pixels, figures, sign in ((x, cost, 1), (y, change, -1)):
        slope, offset = np.polyfit(figures, pixels, 1)
        assert math.copysign(1, slope) == sign
        assert np.abs(slope * figures + offset - pixels).max() < 1e-6
    bars = [line for line in drawing.lines if line.role.startswith("interval")]
    slope, offset = np.polyfit(change, y, 1)
    for bar, shown in zip(bars, panel.points, strict=True):
        assert (bar.y1, bar.y2) == pytest.approx([slope * v + offset for v in (shown.change.low, shown.change.high)])
        assert bar.x1 == bar.x2
    for tick in (t for t in drawing.texts if t.anchor == "end" and t.role == "soft" and t.x < 60):
        assert tick.y == pytest.approx(slope * float(tick.text.replace("\u2212", "-")) + offset, abs=1e-6)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_everything_is_inside_the_picture(size):
    for panel in (*pareto.evaluation_panels(evaluation()), pareto.tuning_panel(tuning())):
        drawing = pareto.draw(panel, *size)
        width, height = size
        for text in drawing.texts:
            reach = 6.0 * len(text.text)
            left = {"start": text.x, "middle": text.x - reach / 2, "end": text.x - reach}[text.anchor]
            assert left >= -1 and left + reach <= width + 12 and 0 <= text.y <= height, text
        for line in drawing.lines:
            assert min(line.x1, line.x2) >= 0 and max(line.x1, line.x2) <= width
            assert min(line.y1, line.y2) >= 0 and max(line.y1, line.y2) <= height


def test_names_do_not_cover_points():
    panel = pareto.Panel("p", "flops", tuple(point(f"name {i}", 0.5 + 0.1 * i, -0.01 * i) for i in range(5)))
    drawing = pareto.draw(panel, 960, 400)
    labels = [text for text in drawing.texts if text.role == "label"]
    assert len(labels) == 5
    for text in labels:
        left = text.x if text.anchor == "start" else text.x - 6.6 * len(text.text)
        for dot in drawing.dots:
            inside = left < dot.x < left + 6.6 * len(text.text) and abs(text.y - dot.y) < 6
            assert not inside, (text, dot)


def test_front_is_what_nothing_beats():
    random = np.random.default_rng(1)
    points = [point(str(i), *random.integers(0, 12, 2).astype(float)) for i in range(60)]
    found = pareto.front(points)

    def beaten(one: pareto.Point) -> bool:
        return any(
            (other.cost <= one.cost and other.change.mean >= one.change.mean)
            and (other.cost, other.change.mean) != (one.cost, one.change.mean)
            for other in points
        )

    expected = {(p.cost, p.change.mean) for p in points if not beaten(p)}
    assert {(p.cost, p.change.mean) for p in found} == expected and len(found) == len(expected)
    assert [p.cost for p in found] == sorted(p.cost for p in found)


def test_tuning_marks_chosen_compared_and_the_budget():
    result = tuning()
    panel = pareto.tuning_panel(result)
    drawing = pareto.draw(panel, 960, 400)
    assert [text.text for text in drawing.texts if text.role == "label"] == ["chosen", "compared"]
    (budget,) = (line for line in drawing.lines if line.role == "budget")
    assert budget.y1 == budget.y2
    by_name = {p.name: p for p in result.points}
    filled = [p for p in panel.points if p.role == "point"]
    assert len(panel.points) - len(filled) == len(result.points)
    for shown in filled:
        loss = by_name[shown.name.removesuffix(", validation images")].validation
        change = shown.change
        assert (change.mean, change.low, change.high) == (-loss.mean, -loss.high, -loss.low)


def test_limit_of_cost_is_a_line_where_it_is():
    panel = pareto.tuning_panel(tuning(budget={"max_cost": 0.9}))
    drawing = pareto.draw(panel, 960, 400)
    (limit,) = (line for line in drawing.lines if line.role == "budget")
    slope, offset = np.polyfit([p.cost for p in panel.points], [dot.x for dot in drawing.dots], 1)
    assert limit.x1 == limit.x2 == pytest.approx(0.9 * slope + offset)
    in_ms = pareto.draw(pareto.tuning_panel(tuning(budget={"target_ms": 9.0})), 960, 400)
    assert not [line for line in in_ms.lines if line.role == "budget"], "milliseconds on an axis of multiplications"


@pytest.mark.parametrize("timed, measure", [(0, "flops"), (3, "flops"), (6, "ms")], ids=["none", "some", "all"])
def test_milliseconds_only_where_all_were_measured(timed, measure):
    plain_one, with_ms = evaluation(), evaluation(ms=True)
    result = plain_one.model_copy(update={"variants": with_ms.variants[:timed] + plain_one.variants[timed:]})
    for panel in pareto.evaluation_panels(result):
        assert panel.measure == measure
        assert [p.cost for p in panel.points] == [getattr(v.cost, measure) for v in result.variants]


ODD = {
    "none": (),
    "one": (point("a", 0.5, -0.01),),
    "the-same-twice": (point("a", 0.5, -0.01), point("b", 0.5, -0.01)),
    "no-number": (point("a", 0.5, -0.01), point("b", 0.6, math.nan), point("c", math.inf, 0.1)),
    "no-interval": (pareto.Point("a", "a", 0.5, Interval(mean=0.1, low=math.nan, high=math.nan), "point"),),
}


@pytest.mark.parametrize("points", ODD.values(), ids=ODD)
def test_odd_points(points):
    drawing = pareto.draw(pareto.Panel("p", "flops", points), 470, 340)
    numbers = [v for dot in drawing.dots for v in (dot.x, dot.y)] + [v for t in drawing.texts for v in (t.x, t.y)]
    numbers += [v for line in drawing.lines for v in (line.x1, line.x2, line.y1, line.y2)]
    assert np.isfinite(numbers).all()
    assert len(drawing.dots) == sum(math.isfinite(p.cost) and math.isfinite(p.change.mean) for p in points)


# --- PNG ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "documents, names, height",
    [
        ((evaluation(), None), ["pareto.png"], 2 * (2 * 454 + 112)),
        ((None, tuning()), ["pareto.png", "sensitivity.png"], 2 * 454),
        ((evaluation(), tuning()), ["pareto.png", "sensitivity.png"], 2 * (3 * 454 + 112)),
    ],
    ids=["evaluation", "tuning", "both"],
)
def test_plots_are_written_at_twice_their_size_on_white(tmp_path, documents, names, height):
    paths = write_plots(tmp_path / "plots", *documents)
    assert [path.name for path in paths] == names
    assert sorted((tmp_path / "plots").iterdir()) == sorted(paths)
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))[::2, ::2].astype(np.int16)
        assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
        assert (pixels[..., 1] - pixels[..., 0] > 50).sum() > 200, "nothing in the accent colour"
    with Image.open(paths[0]) as image:
        assert image.size == (1600, height)


def test_png_has_each_thing_in_its_place(tmp_path):
    above = Drawing(100, 40, "a", cells=[Cell((10, 10, 30, 30), 1.0)], dots=[Dot(70, 20, 6, "dense")])
    below = Drawing(100, 40, "b", lines=[Line(0, 20, 100, 20, "axis")], texts=[Text(50, 8, "$x^2$", "label", "middle")])
    sheet = stacked([above, below])
    assert (sheet.width, sheet.height) == (100, 80)
    save_png(sheet, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        pixels = np.asarray(image.convert("L")).astype(int)
    assert pixels.shape == (160, 200)
    assert (pixels[22:58, 22:58] < 220).all() and pixels[40, 140] < 40
    assert (pixels[118:122, 10] < 200).any() and (pixels[84:110, 80:120] < 100).any()
    assert (pixels[62:82] == 255).all(), "between the two is nothing"


def test_plots_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot write to"):
        write_plots(tmp_path / "file", evaluation(), None)


# --- words -------------------------------------------------------------------------------------------------------

SIGNED = {0.0052: "+0.0052", -0.0052: "\u22120.0052", 0.00001: "0.0000", -0.00001: "0.0000", -0.0: "0.0000"}


@pytest.mark.parametrize("value, words", SIGNED.items(), ids=str)
def test_signs(value, words):
    assert signed(value) == words


def test_words_for_what_is_no_number():
    assert [write(v) for write in (plain, signed, percent) for v in (None, math.nan, -math.inf)] == ["\u2013"] * 9
    assert (plain(-0.5, 1), percent(0.6254), percent(-0.01, 0)) == ("\u22120.5", "62.5\u00a0%", "\u22121\u00a0%")


@pytest.mark.parametrize(
    "seconds, words", [(42.4, "42 s"), (600, "10 min"), (6240, "1 h 44 min"), (7230, "2 h 00 min")], ids=str
)
def test_durations(seconds, words):
    assert duration(seconds) == words.replace(" s", "\u00a0s").replace(" min", "\u00a0min").replace(" h", "\u00a0h")


def test_settings():
    settings = {
        "attention_density": 0.25,
        "mlp_density": [1.0, 0.4],
        "order": "lattice",
        "flag": True,
    }
    words = "attention density 0.25, MLP density per block, order lattice, flag True"
    assert settings_in_words(settings) == words


def test_whiskers_share_one_scale_with_zero_in_it():
    first, second = whiskers([Interval(mean=-0.02, low=-0.04, high=-0.01), Interval(mean=0.0, low=-0.01, high=0.01)])
    assert first.zero == second.zero == second.mean
    assert first.high == second.low and first.low < first.mean < first.high < first.zero < second.high <= 96
    assert second.zero - second.low == pytest.approx(second.high - second.zero)
    assert first.low == 4
