"""The HTML report: complete, well formed, without a network, harmless whatever the files are called."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from sparsesam_deploy.accuracy.report import write_report
from sparsesam_deploy.accuracy.report.records import Interval
from sparsesam_deploy.errors import InvalidInput

from .documents import SPARSE, cases, dataset, evaluation, kept, provenance, tuning
from .parsed import Page, colours, contrast

KINDS = ("evaluation", "tuning", "both", "bare-evaluation", "bare-tuning")
HOSTILE = "\"><script>alert('x')</script><img src=https://example.org/x onerror=alert(1)>{{ 7*7 }}.png"


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Page]:
    folder = tmp_path_factory.mktemp("report")
    documents = {
        "evaluation": (evaluation(), None, cases(), kept()),
        "tuning": (None, tuning(), cases(2), kept(1)),
        "both": (evaluation(ms=True), tuning(), cases(2), kept(1)),
        "bare-evaluation": (evaluation(), None, (), ()),
        "bare-tuning": (None, tuning(), (), ()),
    }
    for name, document in documents.items():
        write_report(folder / f"{name}.html", *document)
    assert sorted(file.name for file in folder.iterdir()) == sorted(f"{name}.html" for name in KINDS)
    return {name: Page((folder / f"{name}.html").read_text(encoding="utf-8")) for name in KINDS}


def signed(value: float, digits: int = 4) -> str:
    text = f"{value:+.{digits}f}".replace("-", "\u2212")
    return text[1:] if set(text[1:]) <= set("0.") else text


def share(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def write(tmp_path, *document) -> Page:
    write_report(tmp_path / "page.html", *document)
    return Page((tmp_path / "page.html").read_text(encoding="utf-8"))


# --- form --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_asked_of_a_network(pages, kind):
    page = pages[kind]
    assert not re.search(r"(?:https?:)?//[\w-]+\.", page.source), "an address of a server"
    assert not re.search(r"@import|@font-face", page.source)
    for element in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = element.attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), f"{element.tag} {name}={value}"
    assert all("src" not in script.attributes for script in page.all("script"))
    assert set(re.findall(r"url\(\"?([^;]{0,12})", page.source)) <= {"data:image/j"}


@pytest.mark.parametrize("kind", KINDS)
def test_policy_allows_this_script_only(pages, kind):
    page = pages[kind]
    (script,) = page.all("script")
    (policy,) = (m.attributes["content"] for m in page.all("meta") if "http-equiv" in m.attributes)
    digest = base64.b64encode(hashlib.sha256("".join(script.words).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("kind", KINDS)
def test_outline_and_labels(pages, kind):
    page = pages[kind]
    levels = [int(e.tag[1]) for e in page.elements if re.fullmatch("h[1-6]", e.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(set(ids)) == len(ids)
    for link in page.all("a"):
        assert link.attributes["href"].removeprefix("#") in ids and link.text
    for section in page.all("section"):
        assert section.attributes["aria-labelledby"] in ids
    for image in page.all("img"):
        assert image.attributes["alt"].strip()
    for control in page.all("input") + page.all("select"):
        assert control.parent.tag == "label" and (control.parent.text or control.attributes.get("aria-label"))
    for drawing in page.all("svg"):
        assert drawing.attributes.get("aria-hidden") == "true" or drawing.attributes["aria-label"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_table_scrolls_by_keyboard_in_its_own_box(pages, kind):
    page = pages[kind]
    assert page.all("table")
    for table in page.all("table"):
        box = table.parent
        assert box.has_class("scroll") and box.attributes["tabindex"] == "0" and box.attributes["aria-label"]


def test_colours_can_be_read_in_light_and_dark(pages):
    (style,) = pages["both"].all("style")
    for scheme in colours(style.text):
        for colour in ("ink", "soft", "accent", "budget"):
            assert contrast(scheme[colour], scheme["paper"]) >= 4.5, (colour, scheme)
        assert contrast(scheme["ink"], scheme["panel"]) >= 4.5
        part = float(scheme["deepest"])
        pairs = zip(*([int(scheme[c][i : i + 2], 16) for i in (1, 3, 5)] for c in ("accent", "paper")), strict=True)
        deepest = "#" + "".join(f"{round(part * a + (1 - part) * b):02x}" for a, b in pairs)
        assert contrast(scheme["ink"], deepest) >= 4.5
    light, dark = colours(style.text)
    assert contrast(light["paper"], dark["paper"]) > 10
    assert "@media (prefers-color-scheme: dark)" in style.text
    used = set(re.findall(r"var\(--([\w-]+)[,)]", pages["both"].source))
    assert used - set(light) <= {"at", "fill", "shade", "shape"}


def test_size_of_a_full_report(tmp_path):
    write_report(tmp_path / "page.html", evaluation(), tuning(), cases(8), kept(4))
    assert (tmp_path / "page.html").stat().st_size < 2_500_000


# --- content -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["evaluation", "both"])
def test_results_are_those_of_the_evaluation(pages, kind):
    result = evaluation(ms=kind == "both")
    rows = pages[kind].rows(pages[kind].section("results"))
    for number, variant in enumerate(result.variants):
        start = next(i for i, row in enumerate(rows) if variant.name in row[:2])
        for row, score in zip(rows[start:], variant.scores, strict=False):
            text = " ".join(row)
            assert score.prompt in row and f"{score.iou.mean:.3f}" in text
            assert f"{score.boundary_iou.mean:.3f}" in text and f"{score.agreement.mean:.3f}" in text
            if number:
                change = score.iou_change
                assert f"{signed(change.mean)}{signed(change.low)} to {signed(change.high)}" in text
                assert signed(score.boundary_iou_change.mean) in text
        text = " ".join(rows[start])
        assert share(variant.cost.flops) in text
        assert number == 0 or (share(variant.cost.gemm) in text and share(variant.cost.bytes) in text)
        assert (variant.cost.ms is None) or f"{variant.cost.ms:.2f}" in text


def test_headline_names_the_cheapest_and_the_closest(pages):
    cards = [e.text for e in pages["evaluation"].elements if e.has_class("card")]
    assert len(cards) == 2
    for card, name, label in zip(
        cards, ("released code 0.4", "lattice 0.25, dense MLP"), ("Cheapest", "Loses least"), strict=True
    ):
        assert name in card and label in card and signed(SPARSE[name][1]) in card and share(SPARSE[name][0]) in card


def test_headline_of_a_tuning(pages):
    result = tuning()
    points = {point.name: point for point in result.points}
    cards = [e.text for e in pages["tuning"].elements if e.has_class("card")]
    assert signed(-points[result.chosen].validation.mean) in cards[0] and result.chosen in cards[0]
    assert f"{signed(-points[result.chosen].validation.high)} to" in cards[0]
    assert signed(-points[result.compared].validation.mean) in cards[1] and result.compared in cards[1]
    assert signed(result.difference.mean) in cards[2] and signed(result.difference.low) in cards[2]


@pytest.mark.parametrize("measure", ["flops", "ms"])
def test_steps_say_what_they_bought_and_what_they_cost(tmp_path, measure):
    result = tuning(steps=7)
    if measure == "ms":
        timed = {"cost": result.steps[0].cost.model_copy(update={"ms": 12.25})}
        points = [point.model_copy(update=timed) for point in result.points]
        steps = [step.model_copy(update=timed) for step in result.steps]
        result = result.model_copy(update={"steps": tuple(steps), "points": tuple(points), "cost_measure": "ms"})
    page = write(tmp_path, None, result, (), ())
    rows = [row for row in page.rows(page.section("steps")) if "block" in row[1]]
    words = {"attention": "attention keys", "mlp": "MLP rows"}
    before = 0.0
    for row, step in zip(rows, result.steps, strict=True):
        turned = f"block {step.block}, {words[step.knob]} {step.before:g} → {step.after:g}"
        left = "12.25 ms" if measure == "ms" else share(step.cost.flops)
        added, total, loss = ["\u2013"] * 3
        if step.loss is not None:
            added, total = signed(step.disagreement - before, 5), f"{step.disagreement:.5f}"
            loss, before = signed(step.loss.mean), step.disagreement
        assert row[:6] == [str(step.number), turned, share(step.saved, 2), left, added, total]
        assert row[6] == f"{step.predicted:.5f}" and row[7].startswith(loss)


def test_every_evaluated_schedule_and_every_sensitivity_is_listed(pages):
    page, result = pages["tuning"], tuning()
    rows = {row[0].split(" chosen")[0].split(" compared")[0]: row for row in page.rows(page.section("steps"))}
    for point in result.points:
        assert share(point.cost.flops) in rows[point.name] and signed(point.calibration.mean) in " ".join(
            rows[point.name]
        )
    assert "chosen" in rows[result.chosen][0] and "compared" in rows[result.compared][0]
    cells = [e for e in page.all("td", page.section("sensitivity")) if e.has_class("shade")]
    titles = [cell.attributes["title"] for cell in cells]
    assert len(cells) == len(result.sensitivities)
    words = {"attention": "attention keys", "mlp": "MLP rows"}
    for one in result.sensitivities:
        start = f"block {one.block}, {words[one.knob]} at density {one.density:g}: disagreement {one.disagreement:.5f}"
        (cell,) = (cell for cell, title in zip(cells, titles, strict=True) if title.startswith(start))
        worst = max(s.disagreement for s in result.sensitivities)
        shade = float(re.search(r"--shade: ([\d.]+)%", cell.attributes["style"])[1])
        assert shade == pytest.approx(100 * (one.disagreement / worst) ** 0.5, abs=0.06)
        assert f"{1000 * one.disagreement:.2f}" in cell.text


def test_chosen_schedule_is_shown_by_block(pages):
    result = tuning()
    (chosen,) = (point for point in result.points if point.name == result.chosen)
    rows = {row[0]: row[1:] for row in pages["tuning"].rows(pages["tuning"].section("schedule"))}
    for name, setting in (("attention density", "attention_density"), ("MLP density", "mlp_density")):
        assert [float(cell) for cell in rows[name]] == chosen.settings[setting]


def test_worst_cases_come_first(pages):
    page = pages["evaluation"]
    shown = [e for e in page.elements if e.has_class("case")]
    expected = sorted(cases(), key=lambda case: case.iou - case.dense_iou)
    assert len(shown) == len(expected)
    for article, case in zip(shown, expected, strict=True):
        assert f"{case.image} object {case.object}" in article.text
        assert f"{case.iou:.3f} from {case.dense_iou:.3f}" in article.text and case.variant in article.text
        (slider,) = page.all("input", article)
        assert slider.attributes["type"] == "range" and case.image in slider.attributes["aria-label"]
    assert "outline of the ground truth" in page.section("worst").text
    listed = page.rows(page.section("worst"))[1:]
    assert len(listed) == sum(len(variant.worst) for variant in evaluation().variants)


def test_kept_tokens_are_shown_by_block_and_picked_by_name(pages):
    page = pages["evaluation"]
    options = page.all("option")
    assert [option.text for option in options] == [f"{n} · lattice 0.25 + share 0.4" for n in ("00.png", "01.png")]
    for option in options:
        gallery = page.by_id(option.attributes["value"])
        captions = [caption.text for caption in page.all("figcaption", gallery)]
        assert [c.split()[1] for c in captions] == ["2", "5", "8", "11", "3", "4", "6", "7", "9", "10"]
        assert captions[0] == "block 2 25 %"


def test_images_and_origin(pages):
    text = pages["evaluation"].section("images").text + pages["evaluation"].section("reproduce").text
    result = evaluation()
    assert all(sentence in text for sentence in result.dataset.skipped) and len(result.dataset.skipped) == 2
    assert "2 crowd annotations" in text and result.provenance.checkpoint_sha256 in text
    assert result.provenance.commit in text
    for name, value in (result.provenance.versions | result.provenance.machine).items():
        assert name in text and value in text
    (command,) = pages["evaluation"].all("code", pages["evaluation"].all("pre")[0])
    assert "".join(command.words) == result.provenance.command, "not to be copied as it was typed"
    assert "Nothing was skipped." in pages["tuning"].section("images").text


def test_without_ground_truth_it_says_what_iou_is(tmp_path):
    result = evaluation(dataset=dataset(has_truth=False))
    page = write(tmp_path, result, None, [replace(case, truth=None) for case in cases(1)], ())
    assert "There is no ground truth: IoU is to the dense encoder\u2019s masks." in page.source
    assert "outline of the ground truth" not in page.section("worst").text


# --- what comes in from outside ----------------------------------------------------------------------------------


def test_names_are_text_whatever_they_hold(tmp_path):
    def spoil(result):
        """The same with every string of the document replaced, but for words that select something."""
        keep = {"knob", "cost_measure"}

        def walk(value, key=None):
            if isinstance(value, str):
                return value if key in keep else HOSTILE
            if isinstance(value, dict):
                return {f"{k}": walk(v, k) for k, v in value.items()}
            return [walk(v, key) for v in value] if isinstance(value, list) else value

        return type(result).model_validate(walk(result.model_dump(mode="json")))

    hostile_cases = [replace(case, variant=HOSTILE, image=HOSTILE, object=HOSTILE, prompt=HOSTILE) for case in cases(1)]
    hostile_kept = [replace(tokens, variant=HOSTILE, image=HOSTILE, what=HOSTILE) for tokens in kept(1)]
    versions = {HOSTILE: HOSTILE}
    result = spoil(evaluation()).model_copy(
        update={"provenance": provenance(HOSTILE, versions=versions, machine=versions, model=HOSTILE)}
    )
    page = write(tmp_path, result, spoil(tuning()), hostile_cases, hostile_kept)
    clean = write(tmp_path, evaluation(), tuning(), cases(1), kept(1))
    assert len(page.all("script")) == 1
    assert {e.tag for e in page.elements} == {e.tag for e in clean.elements}
    assert not [e for e in page.elements if any(name.startswith("on") for name in e.attributes)]
    assert HOSTILE in page.section("results").text and "49.png" not in page.source
    assert HOSTILE in page.all("img")[0].attributes["alt"] and HOSTILE in page.all("option")[0].text
    assert HOSTILE in page.all("title")[0].text


def test_file_names_that_are_no_text(tmp_path):
    page = write(tmp_path, evaluation(), None, [replace(cases(1)[0], image="caf\udce9.png")], ())
    assert "caf\\udce9.png" in page.source


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "infinite"])
def test_figures_that_are_no_numbers_are_dashes(tmp_path, value):
    broken = Interval(mean=value, low=value, high=value)
    result = evaluation()
    score = result.variants[1].scores[0].model_copy(update={"iou_change": broken})
    variant = result.variants[1].model_copy(update={"scores": (score, result.variants[1].scores[1])})
    result = result.model_copy(update={"variants": (result.variants[0], variant, *result.variants[2:])})
    page = write(tmp_path, result, None, (), ())
    text = page.section("results").text
    assert "\u2013\u2013 to \u2013" in text
    assert not re.search(r'="(nan|inf)', page.source)


def test_dense_alone_and_one_variant(tmp_path):
    result = evaluation()
    for count in (1, 2):
        page = write(tmp_path, result.model_copy(update={"variants": result.variants[:count]}), None, (), ())
        assert len([e for e in page.elements if e.has_class("card")]) == count - 1


def test_nothing_to_report(tmp_path):
    with pytest.raises(InvalidInput, match="would report nothing; give an evaluation, a tuning or both"):
        write_report(tmp_path / "page.html", None, None, (), ())


def test_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot write to"):
        write_report(tmp_path / "file" / "page.html", evaluation(), None, (), ())


def test_written_whole_or_not_at_all(tmp_path):
    write_report(tmp_path / "page.html", evaluation(), None, (), ())
    before = (tmp_path / "page.html").read_bytes()
    bad = replace(cases(1)[0], dense=np.zeros((3, 3), bool))
    with pytest.raises(ValueError):
        write_report(tmp_path / "page.html", evaluation(), None, [bad], ())
    assert (tmp_path / "page.html").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
