"""Tuning: nothing is chosen that was not evaluated, on images the search did not see, and within the budget."""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from segment_anything import SamPredictor

from sparsesam_deploy.accuracy.evaluation.journal import Journal
from sparsesam_deploy.accuracy.evaluation.judge import Judge
from sparsesam_deploy.accuracy.evaluation.multiplications import cost_of_choice
from sparsesam_deploy.accuracy.evaluation.prompts import parse_prompt
from sparsesam_deploy.accuracy.evaluation.variants import torch_variant
from sparsesam_deploy.accuracy.report.records import Interval, Tuning
from sparsesam_deploy.accuracy.tuning import run as tuning
from sparsesam_deploy.accuracy.tuning.cost_table import CostTable, counted_table
from sparsesam_deploy.accuracy.tuning.descent import single_moves
from sparsesam_deploy.accuracy.tuning.measurements import Measurement, Measurements, ScheduledSparsity, paired
from sparsesam_deploy.accuracy.tuning.run import TuneInputs
from sparsesam_deploy.accuracy.tuning.schedule import SearchSpace
from sparsesam_deploy.accuracy.tuning.tuner import Budget, MeasuredSchedule, Tuner
from sparsesam_deploy.errors import CheckFailed, InvalidInput
from sparsesam_deploy.model.checkpoint import LoadedSam
from sparsesam_deploy.model.config import DENSE, SamConfig, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.ops.routing import SHARING
from sparsesam_deploy.recipe import ExportRecipe
from tests.accuracy.evaluation.authors import coco_iou, masks_by
from tests.accuracy.miniature import CPU, MINIATURE, SPACE, inputs, loaded, run
from tests.accuracy.pictures import picture, pictures
from tests.accuracy.report.parsed import Page
from tests.networks import stock_encoder

DENSITIES = ("attention_density", "mlp_density", "windowed_density")

pytestmark = pytest.mark.usefixtures("short_ladders")


@pytest.fixture(scope="module")
def tuned(short_ladders, tmp_path_factory) -> tuple[Tuning, Path]:
    """Half of the dense cost, on the ground truth."""
    folder = tmp_path_factory.mktemp("tuned")
    return run(folder, Budget(max_cost=0.5)), folder / "out"


def measurements(tmp_path, one: TuneInputs) -> Measurements:
    journal = Journal(tmp_path / "journal", {})
    return Measurements(one.loaded, one.judge, one.calibration, journal, True, CPU, "reference")


def test_a_trial_is_what_the_whole_encoder_gives(tmp_path):
    """Blocks before the first thinned one are not computed again, and nothing else is left out."""
    one = inputs(2)
    for move in single_moves(SPACE):
        scheduled = ScheduledSparsity.of(SPACE.dense.after(move))
        (found,) = measurements(tmp_path, one)([scheduled])
        variant, losses = torch_variant("x", loaded(), scheduled.sparsity, CPU), []
        for index, name in enumerate(one.calibration.names):
            scene = one.judge.scene(name, one.calibration.load(index))
            thinned = one.judge.figures(scene, variant.encode(scene.image.tensor))["box"].iou
            losses.append(one.judge.figures(scene, None)["box"].iou - thinned)
        assert found.loss.mean == pytest.approx(np.concatenate(losses).mean(), abs=1e-6)


def test_paired_difference(tmp_path):
    one = measurements(tmp_path, inputs())
    sparse, sparser = one([ScheduledSparsity(SparsityConfig(0.25, 0.5)), ScheduledSparsity(SparsityConfig(0.05, 0.3))])
    assert paired(sparse, sparser).mean == pytest.approx(sparser.loss.mean - sparse.loss.mean)
    assert paired(sparse, sparse).mean == paired(sparse, sparse).high == 0


def test_the_worst_objects_of_a_candidate(tmp_path):
    """Ten of the 24 answers about twelve objects by two kinds of prompts, from what the journal has about them."""
    one, scheduled = inputs(2), ScheduledSparsity(SparsityConfig())
    rng, names = np.random.default_rng(0), [f"object {index}" for index in range(12)]
    iou, dense_iou, agreement = rng.random((3, 2, 12)).round(6)
    figures = {"iou": iou, "dense_iou": dense_iou, "agreement": agreement}
    entry = {"problems": [], "objects": names, **{name: values.ravel().tolist() for name, values in figures.items()}}
    Journal(tmp_path / "journal", {}).add(f"{scheduled.key} 0.png", entry)
    one.judge.prompts = [parse_prompt("box"), parse_prompt("center")]
    expected = sorted(np.ndindex(2, 12), key=lambda place: iou[place] - dense_iou[place])[:10]
    assert [
        (w.prompt, w.object, w.iou, w.dense_iou, w.agreement) for w in measurements(tmp_path, one).worst(scheduled)
    ] == [
        (("box", "center")[kind], names[index], iou[kind, index], dense_iou[kind, index], agreement[kind, index])
        for kind, index in expected
    ]


def test_what_is_chosen_was_evaluated_and_build_takes_it(tuned, tmp_path):
    found, folder = tuned
    points = {point.name: point for point in found.points}
    chosen = points[found.chosen]
    assert chosen.cost.flops <= 0.5 and chosen.validation is not None
    assert points[found.compared].validation is not None
    recipe = ExportRecipe.merge(folder / "recipe.toml", {"model": "nano"})
    assert asdict(recipe.sparsity) == chosen.settings
    (again,) = measurements(tmp_path, inputs())([ScheduledSparsity(recipe.sparsity)])
    assert again.loss == chosen.calibration
    written = {file.name for file in folder.iterdir()}
    assert {"recipe.toml", "tuning.json", "pareto.csv", "cost_table.json", "report.html"} <= written


def test_steps_say_what_they_bought(tuned):
    found, _ = tuned
    cost = 1.0
    for number, step in enumerate(found.steps, start=1):
        assert step.number == number and step.after < step.before and step.saved > 0
        assert step.cost.flops == pytest.approx(cost - step.saved, abs=1e-9)
        cost = step.cost.flops
    measured = {f"step {step.number}": step.loss for step in found.steps if step.loss is not None}
    assert {point.name: point.calibration for point in found.points if point.name in measured} == measured
    assert all(step.cost.flops > 0.5 for step in found.steps[:-1])


WIDE = SamConfig("custom", embed_dim=768, depth=4, num_heads=12, global_blocks=(1, 3))

WIDE_SPACE = SearchSpace(WIDE, "share-variance")


@cache
def shapes() -> LoadedSam:
    """Wide enough that linear layers are most of the work; without weights, which nothing below asks for."""
    with torch.device("meta"):
        return LoadedSam(SimpleNamespace(image_encoder=stock_encoder(WIDE)), WIDE, "0" * 64, "shapes")


class Priced:
    """Measurements whose loss is ``most`` where every density is 0, and in proportion above."""

    def __init__(self, most: float) -> None:
        self.most, self.tried = most, []
        self.dataset = pictures(4)

    def __call__(self, schedules, advance=None) -> list[Measurement]:
        self.tried += schedules
        losses = []
        for one in schedules:
            settings = one.sparsity
            densities = (*settings.attention_density, *settings.mlp_density, *settings.windowed_density)
            losses.append(self.most * (1 - sum(densities) / len(densities)))
        return [Measurement(*[Interval(mean=loss, low=loss, high=loss)] * 2, {}) for loss in losses]


def tuner_of(seen: Priced, unseen: Priced, budget: Budget, table: CostTable | None = None) -> Tuner:
    table = table or counted_table(shapes(), WIDE_SPACE)
    return Tuner(shapes(), WIDE_SPACE, seen, unseen, table, budget, Console(quiet=True))


def choose(seen: Priced, unseen: Priced, budget: Budget) -> tuple[MeasuredSchedule, list[MeasuredSchedule]]:
    tuner = tuner_of(seen, unseen, budget)
    found = tuner.search()
    return tuner.choose(found), found.points


def test_the_cheapest_within_the_loss_is_chosen():
    chosen, points = choose(seen := Priced(0.1), Priced(0.1), Budget(max_miou_drop=0.04))
    assert chosen.calibration.loss.mean <= 0.04 and chosen.scheduled in seen.tried
    cheaper = [point for point in points if point.cost.flops < chosen.cost.flops]
    assert cheaper and all(point.calibration.loss.mean > 0.04 for point in cheaper)


def test_a_schedule_that_loses_more_on_unseen_images_is_not_chosen():
    """There everything loses half as much again, so a dearer one is taken; the dense one loses nothing anywhere."""
    lenient, _ = choose(Priced(0.1), Priced(0.1), Budget(max_miou_drop=0.04))
    chosen, _ = choose(Priced(0.1), Priced(0.2), Budget(max_miou_drop=0.04))
    assert chosen.cost.flops > lenient.cost.flops
    assert chosen.validation.loss.mean <= 0.04


@pytest.mark.parametrize("density", [0.4, 0.6])
def test_a_uniform_density_is_compared_at_its_own_cost(density):
    """Its rounding is not that of a table of costs: at exactly its cost it is not passed over for a dearer one."""
    tuner = tuner_of(Priced(0.1), Priced(0.1), Budget())
    cost = cost_of_choice(shapes().sam.image_encoder, WIDE, SparsityConfig(density, density))
    dense = ScheduledSparsity.of(WIDE_SPACE.dense)
    chosen = MeasuredSchedule("chosen", dense, cost, Priced(0.1)([dense])[0])
    assert tuner.uniform(chosen).name == f"uniform {density:g}"


def test_a_cost_is_within_reach_where_computing_less_takes_longer():
    """As measured times may have it: half of the windowed rows here take twice the time of all."""
    table = counted_table(shapes(), WIDE_SPACE)
    entries = [one.model_copy(update={"cost": 1.0}) if one.knob == "windowed" else one for one in table.entries]
    slow = [
        one.model_copy(update={"cost": 2.0}) if (one.knob, one.density) == ("windowed", 0.5) else one for one in entries
    ]
    table = table.model_copy(update={"entries": tuple(slow)})
    tuner = tuner_of(Priced(0.1), Priced(0.1), Budget(), table)
    lowest = tuner.lowest_cost
    tuner.budget = Budget(max_cost=lowest)
    steps = tuner.search().steps
    assert {step.knob for step in steps} == {"attention", "mlp"}
    assert tuner.dense_cost * (1 - sum(step.saved for step in steps)) == pytest.approx(lowest)


def test_both_budgets_at_once():
    chosen, _ = choose(Priced(0.1), Priced(0.1), Budget(max_miou_drop=0.06, max_cost=0.5))
    assert chosen.cost.flops <= 0.5
    with pytest.raises(CheckFailed, match=r"at most 0\.01 and at most 0\.5 of the dense cost"):
        choose(Priced(0.1), Priced(0.1), Budget(max_miou_drop=0.01, max_cost=0.5))
    with pytest.raises(CheckFailed, match="no schedule meets"):
        choose(Priced(0.1), Priced(9.0), Budget(max_miou_drop=0.06, max_cost=0.5))


def test_an_impossible_budget_leaves_no_recipe(tmp_path, monkeypatch):
    def fail(*arguments):
        raise CheckFailed("no schedule meets it.")

    monkeypatch.setattr(Tuner, "search", lambda self: None)
    monkeypatch.setattr(Tuner, "choose", fail)
    with pytest.raises(CheckFailed):
        run(tmp_path, Budget(max_cost=0.5))
    assert not (tmp_path / "out" / "recipe.toml").exists()


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(max_cost=1.0), "the dense encoder takes 1 of the dense work, which meets the budget"),
        (Budget(max_cost=0.01), "cannot be reached; give"),
    ],
    ids=["dense-will-do", "out-of-reach"],
)
def test_a_budget_that_needs_no_search_is_refused_before_it(tmp_path, budget, words, monkeypatch):
    monkeypatch.setattr(Measurements, "__call__", None)
    with pytest.raises(InvalidInput, match=words):
        run(tmp_path, budget)


def test_what_was_left_out_is_still_listed_by_a_run_that_tries_nothing(tmp_path):
    one = inputs(bad=(2, 3), flawed=(0,))
    first = run(tmp_path, Budget(max_cost=0.5), one=one)
    again = run(tmp_path, Budget(max_cost=0.5), one=inputs(bad=(2, 3), flawed=(0,)))
    expected = ("label 7 of 0.png is empty; draw it.", "image 2.png is torn; repair it.")
    assert first.calibration.skipped == again.calibration.skipped == expected


def test_no_object_anywhere_is_an_error(tmp_path, monkeypatch):
    one = inputs(has_truth=False)
    monkeypatch.setattr(one.judge, "_find_objects", lambda pixels, outputs: np.zeros((0, *pixels.shape[:2]), bool))
    with pytest.raises(InvalidInput, match=r"could be used: 0\.png: the dense encoder finds no object"):
        run(tmp_path, Budget(max_cost=0.5), one=one)


def test_a_killed_run_tries_nothing_twice(tuned, tmp_path, monkeypatch):
    count = 0
    figures = Judge.figures

    def counting(self, scene, outputs):
        nonlocal count
        count += 1
        if count == 12:
            raise KeyboardInterrupt
        return figures(self, scene, outputs)

    monkeypatch.setattr(Judge, "figures", counting)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Budget(max_cost=0.5))
    tried = len((tmp_path / "out" / tuning.JOURNAL).read_text().splitlines()) - 1
    assert tried > 5
    monkeypatch.setattr(Judge, "figures", figures)
    again = run(tmp_path, Budget(max_cost=0.5))
    drop = {"provenance"}
    assert again.model_dump(exclude=drop) == tuned[0].model_dump(exclude=drop)
    monkeypatch.setattr(Judge, "figures", None)  # everything was tried
    assert run(tmp_path, Budget(max_cost=0.5)).model_dump(exclude=drop) == again.model_dump(exclude=drop)
    first, last = (report(folder).all("img") for folder in (tuned[1], tmp_path / "out"))
    assert first and [image.attributes["src"] for image in first] == [image.attributes["src"] for image in last]


def report(folder: Path) -> Page:
    return Page((folder / tuning.REPORT).read_text(encoding="utf-8"))


def shown(page: Page) -> list[tuple[str, float, float]]:
    """Image and object of each worst case in the order of the page, its IoU and the dense one."""
    found = []
    for article in (element for element in page.elements if element.has_class("case")):
        (name,), iou, dense_iou = (
            [heading.text for heading in page.all("h3", article)],
            *re.search(r"IoU ?([\d.]+) from ([\d.]+)", article.text).groups(),
        )
        found.append((name, float(iou), float(dense_iou)))
    return found


def test_the_report_shows_what_was_lost_on_unseen_images(tuned):
    """All four objects there, by segment_anything's decoder and pycocotools, and what each block keeps."""
    found, folder = tuned
    sparsity = ExportRecipe.merge(folder / tuning.RECIPE, {"model": "nano"}).sparsity
    encoders = [torch_variant("x", loaded(), one, CPU).encode for one in (sparsity, DENSE)]
    predictor, expected = SamPredictor(loaded().sam), {}
    for index in (1, 3):
        item = picture(index)
        masks = [masks_by(predictor, encode, f"{index}.png", item, "box") for encode in encoders]
        for number, name in enumerate(item.objects):
            ious = [coco_iou(of_encoder[number], item.masks[number]) for of_encoder in masks]
            expected[f"{index}.png object {name}"] = pytest.approx(tuple(ious), abs=1.1e-3)
    page = report(folder)
    assert {name: tuple(ious) for name, *ious in shown(page)} == expected
    assert found.chosen in page.section("worst").text
    chosen = next(point for point in found.points if point.name == found.chosen).settings
    thinned = [(name, block) for name in DENSITIES for block, density in enumerate(chosen[name]) if density < 1]
    assert len(page.all("figcaption", page.section("kept"))) == len(thinned) > 0


def test_without_labels_the_dense_masks_are_the_target(tmp_path, monkeypatch):
    one = inputs(space=SearchSpace(MINIATURE, "share-quadtree"), has_truth=False)
    monkeypatch.setattr(one.judge, "_find_objects", lambda pixels, outputs: np.stack([pixels[..., 0] > 128]))
    found = run(tmp_path, Budget(max_cost=0.5), one=one)
    assert not found.calibration.has_truth and "dense encoder's masks" in found.loss_is
    for step in found.steps:
        assert step.loss is None or step.loss.mean == pytest.approx(step.disagreement)
    assert {dense_iou for _, _, dense_iou in shown(report(tmp_path / "out"))} == {1.0}
    assert {point.settings["routing"] for point in found.points} == {"share-quadtree"}
    assert ExportRecipe.merge(tmp_path / "out" / "recipe.toml", {"model": "nano"}).sparsity.routing == "share-quadtree"


def test_a_journal_of_another_routing_is_refused(tuned, tmp_path):
    (tmp_path / "out").mkdir()
    shutil.copy(tuned[1] / tuning.JOURNAL, tmp_path / "out")
    with pytest.raises(InvalidInput, match="another choice of ladders, routing; repeat that command"):
        run(tmp_path, Budget(max_cost=0.5), one=inputs(space=SearchSpace(MINIATURE, "share-quadtree")))


def test_the_recipe_says_what_it_promises(tuned):
    found, folder = tuned
    chosen = next(point for point in found.points if point.name == found.chosen)
    assert f"mean IoU {-chosen.validation.mean:+.4f}" in (folder / "recipe.toml").read_text()


@pytest.mark.parametrize("routing", SHARING)
def test_uniform_is_what_one_density_means(routing):
    """The same blocks at the same densities, and so the same masks, as `--density`."""
    schedule = dict(SearchSpace(MINIATURE, routing).uniform())[0.4]
    encoders = [
        SparseSamEncoder(loaded().sam.image_encoder, MINIATURE, choice)
        for choice in (schedule.sparsity, SparsityConfig(0.4, 0.4, routing=routing))
    ]
    image = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    one, other = (encoder(image) for encoder in encoders)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
