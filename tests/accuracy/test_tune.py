"""Tuning: nothing is chosen that was not evaluated, on images the search did not see, and within the budget."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from sparsesam_deploy.accuracy import tuning
from sparsesam_deploy.accuracy.cost import cost_of_choice
from sparsesam_deploy.accuracy.cost_table import CostTable, counted_table, measured_table
from sparsesam_deploy.accuracy.journal import Journal
from sparsesam_deploy.accuracy.judge import Judge
from sparsesam_deploy.accuracy.mirrored import Mirrored
from sparsesam_deploy.accuracy.prompts import parse_prompt
from sparsesam_deploy.accuracy.results import Interval, Tuning
from sparsesam_deploy.accuracy.schedule import Schedule
from sparsesam_deploy.accuracy.search import single_moves
from sparsesam_deploy.accuracy.subset import Subset
from sparsesam_deploy.accuracy.trials import Candidate, Trial, Trials, paired
from sparsesam_deploy.accuracy.tune import Budget, Point, Tuner, uniform
from sparsesam_deploy.accuracy.tuning import Setting, tune
from sparsesam_deploy.accuracy.variants import torch_variant
from sparsesam_deploy.errors import CheckFailed, InvalidInput
from sparsesam_deploy.export.recipe import ExportRecipe
from sparsesam_deploy.model.checkpoint import LoadedSam
from sparsesam_deploy.model.config import DENSE, SamConfig, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from tests.accuracy.pictures import Pictures, pictures
from tests.helpers import random_sam
from tests.networks import stock_encoder

CPU = torch.device("cpu")
MINIATURE = SamConfig("custom", embed_dim=16, depth=2, num_heads=1, global_blocks=(0,), decoder_mlp_dim=64)
SHORT = {"attention": (1.0, 0.125), "mlp": (1.0, 0.5, 0.25), "windowed": (1.0, 0.5)}


@pytest.fixture(autouse=True, scope="module")
def short_ladders():
    with pytest.MonkeyPatch.context() as patch:
        for module in ("schedule", "cost_table", "search", "tune", "tuning"):
            patch.setattr(f"sparsesam_deploy.accuracy.{module}.LADDERS", SHORT)
        yield


@cache
def loaded() -> LoadedSam:
    return LoadedSam(random_sam(MINIATURE), MINIATURE, "0" * 64, "miniature")


def setting(images: int = 4, **choices) -> Setting:
    dense = torch_variant("dense", loaded(), DENSE, CPU)
    judge = Judge(loaded(), dense.encode, [parse_prompt("box")], "best", CPU)
    dataset = Pictures(images, **choices)
    seen, unseen = (Mirrored(Subset(dataset, range(first, images, 2)), 1) for first in (0, 1))
    return Setting(loaded(), judge, seen, unseen, CPU, "reference", 0, True)


def run(tmp_path, budget: Budget, table: CostTable | None = None, one: Setting | None = None):
    return tune(one or setting(), budget, table, tmp_path / "out", Console(quiet=True))


@pytest.fixture(scope="module")
def tuned(short_ladders, tmp_path_factory) -> tuple[Tuning, Path]:
    """Half of the dense cost, on the ground truth."""
    folder = tmp_path_factory.mktemp("tuned")
    return run(folder, Budget(max_cost=0.5)), folder / "out"


def trials(tmp_path, one: Setting) -> Trials:
    journal = Journal(tmp_path / "journal", {})
    return Trials(one.loaded, one.judge, one.calibration, journal, True, CPU, "reference")


def test_a_trial_is_what_the_whole_encoder_gives(tmp_path):
    """Blocks before the first thinned one are not computed again, and nothing else is left out."""
    one = setting(2)
    for move in single_moves(MINIATURE):
        candidate = Candidate.of(Schedule.dense(2).after(move))
        (found,) = trials(tmp_path, one)([candidate])
        variant, losses = torch_variant("x", loaded(), candidate.sparsity, CPU), []
        for index, name in enumerate(one.calibration.names):
            scene = one.judge.scene(name, one.calibration.load(index))
            thinned = one.judge.figures(scene, variant.encode(scene.image.tensor))["box"].iou
            losses.append(one.judge.figures(scene, None)["box"].iou - thinned)
        assert found.loss.mean == pytest.approx(np.concatenate(losses).mean(), abs=1e-6)


def test_paired_difference(tmp_path):
    one = trials(tmp_path, setting())
    sparse, sparser = one([Candidate(SparsityConfig(0.25, 0.5)), Candidate(SparsityConfig(0.05, 0.3))])
    assert paired(sparse, sparser).mean == pytest.approx(sparser.loss.mean - sparse.loss.mean)
    assert paired(sparse, sparse).mean == paired(sparse, sparse).high == 0


def test_what_is_chosen_was_evaluated_and_build_takes_it(tuned, tmp_path):
    found, folder = tuned
    points = {point.name: point for point in found.points}
    chosen = points[found.chosen]
    assert chosen.cost.flops <= 0.5 and chosen.validation is not None
    assert points[found.compared].validation is not None
    recipe = ExportRecipe.merge(folder / "recipe.toml", {"model": "nano"})
    assert asdict(recipe.sparsity) == {**chosen.settings, "diagonal": None}
    (again,) = trials(tmp_path, setting())([Candidate(recipe.sparsity)])
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


@cache
def shapes() -> LoadedSam:
    """Wide enough that linear layers are most of the work; without weights, which nothing below asks for."""
    with torch.device("meta"):
        return LoadedSam(SimpleNamespace(image_encoder=stock_encoder(WIDE)), WIDE, "0" * 64, "shapes")


class Priced:
    """Trials whose loss is ``most`` where every density is 0, and in proportion above."""

    def __init__(self, most: float) -> None:
        self.most, self.tried = most, []
        self.dataset = pictures(4)

    def __call__(self, candidates, advance=None) -> list[Trial]:
        self.tried += candidates
        losses = []
        for one in candidates:
            settings = one.sparsity
            densities = (*settings.attention_density, *settings.mlp_density, *settings.windowed_density)
            losses.append(self.most * (1 - sum(densities) / len(densities)))
        return [Trial(*[Interval(mean=loss, low=loss, high=loss)] * 2, {}) for loss in losses]


def choose(seen: Priced, unseen: Priced, budget: Budget) -> tuple[Point, list[Point]]:
    tuner = Tuner(shapes(), seen, unseen, counted_table(shapes()), budget, Console(quiet=True))
    found = tuner.search()
    return tuner.choose(found), found.points


def test_the_cheapest_within_the_loss_is_chosen():
    chosen, points = choose(seen := Priced(0.1), Priced(0.1), Budget(max_miou_drop=0.04))
    assert chosen.calibration.loss.mean <= 0.04 and chosen.candidate in seen.tried
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
    tuner = Tuner(shapes(), Priced(0.1), Priced(0.1), counted_table(shapes()), Budget(), Console(quiet=True))
    cost = cost_of_choice(shapes().sam.image_encoder, WIDE, SparsityConfig(density, density))
    chosen = Point("chosen", Candidate.of(Schedule.dense(4)), cost, Priced(0.1)([Candidate.of(Schedule.dense(4))])[0])
    assert tuner.uniform(chosen).name == f"uniform {density:g}"


def test_a_cost_is_within_reach_where_computing_less_takes_longer():
    """As measured times may have it: half of the windowed rows here take twice the time of all."""
    table = counted_table(shapes())
    entries = [one.model_copy(update={"cost": 1.0}) if one.knob == "windowed" else one for one in table.entries]
    slow = [
        one.model_copy(update={"cost": 2.0}) if (one.knob, one.density) == ("windowed", 0.5) else one for one in entries
    ]
    table = table.model_copy(update={"entries": tuple(slow)})
    tuner = Tuner(shapes(), Priced(0.1), Priced(0.1), table, Budget(), Console(quiet=True))
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

    monkeypatch.setattr(Tuner, "choose", fail)
    with pytest.raises(CheckFailed):
        run(tmp_path, Budget(max_cost=0.5))
    assert not (tmp_path / "out" / "recipe.toml").exists()


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(max_cost=1.0), "the dense encoder takes 1 of the dense work already"),
        (Budget(max_cost=0.01), "the least is"),
    ],
    ids=["dense-will-do", "out-of-reach"],
)
def test_a_budget_that_needs_no_search_is_refused_before_it(tmp_path, budget, words, monkeypatch):
    monkeypatch.setattr(Trials, "__call__", None)
    with pytest.raises(InvalidInput, match=words):
        run(tmp_path, budget)


def test_what_was_left_out_is_still_listed_by_a_run_that_tries_nothing(tmp_path):
    one = setting(6, bad=(2, 3), flawed=(0,))
    first = run(tmp_path, Budget(max_cost=0.5), one=one)
    again = run(tmp_path, Budget(max_cost=0.5), one=setting(6, bad=(2, 3), flawed=(0,)))
    expected = ("label 7 of 0.png is empty; draw it.", "image 2.png is torn; repair it.")
    assert first.calibration.skipped == again.calibration.skipped == expected


def test_no_object_anywhere_is_an_error(tmp_path, monkeypatch):
    one = setting(has_truth=False)
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


def test_without_labels_the_dense_masks_are_the_target(tmp_path, monkeypatch):
    one = setting(has_truth=False)
    monkeypatch.setattr(one.judge, "_find_objects", lambda pixels, outputs: np.stack([pixels[..., 0] > 128]))
    found = run(tmp_path, Budget(max_cost=0.5), one=one)
    assert not found.calibration.has_truth and "dense encoder's masks" in found.loss_is
    for step in found.steps:
        assert step.loss is None or step.loss.mean == pytest.approx(step.disagreement)


def test_counted_costs_add_up_to_one():
    table = counted_table(loaded())
    assert table.total(Schedule.dense(2), MINIATURE) == pytest.approx(1)


def test_measured_costs_are_times_and_are_read_again(tmp_path):
    table = measured_table(loaded(), CPU, "reference", torch.float32, lambda share, words: None)
    assert table.measure == "ms" and table.fixed > 0 and all(entry.cost > 0 for entry in table.entries)
    assert table.of("attention", 1.0) > table.of("attention", 0.125)
    path = tmp_path / "costs.json"
    path.write_text(table.model_dump_json())
    assert CostTable.read(path, "custom") == table
    found = run(tmp_path, Budget(target_ms=0.8 * table.total(Schedule.dense(2), MINIATURE)), table)
    chosen = next(point for point in found.points if point.name == found.chosen)
    assert found.cost_measure == "ms"
    assert chosen.cost.ms <= 0.8 * table.total(Schedule.dense(2), MINIATURE)


@pytest.mark.parametrize("text", ["", "{}", '{"measure": "ms"}', "[]"])
def test_a_bad_cost_table_is_refused(tmp_path, text):
    path = tmp_path / "costs.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"cost table .*costs\.json cannot be read"):
        CostTable.read(path, "custom")


WRONG_TABLES = {
    "another-model": (lambda table: table.model_copy(update={"family": "vit_h"}), "is of vit_h, not of custom"),
    "no-times": (lambda table: table.model_copy(update={"measure": "flops"}), "is not of milliseconds"),
    "a-rung-missing": (lambda table: table.model_copy(update={"entries": table.entries[1:]}), "measure it again"),
    "no-number": (
        lambda table: table.model_copy(
            update={"entries": (table.entries[0].model_copy(update={"cost": float("inf")}), *table.entries[1:])}
        ),
        "is not of milliseconds|cannot be read",
    ),
}


@pytest.mark.parametrize(("change", "words"), WRONG_TABLES.values(), ids=WRONG_TABLES.keys())
def test_a_cost_table_that_does_not_fit_is_refused(tmp_path, change, words):
    path = tmp_path / "costs.json"
    path.write_text(change(counted_table(loaded()).model_copy(update={"measure": "ms"})).model_dump_json())
    with pytest.raises(InvalidInput, match=words):
        CostTable.read(path, "custom")


def test_the_recipe_says_what_it_promises(tuned):
    found, folder = tuned
    chosen = next(point for point in found.points if point.name == found.chosen)
    assert f"mean IoU {-chosen.validation.mean:+.4f}" in (folder / "recipe.toml").read_text()


def test_uniform_is_what_one_density_means():
    """The same blocks at the same densities, and so the same masks, as `--density`."""
    encoders = [
        SparseSamEncoder(loaded().sam.image_encoder, MINIATURE, choice)
        for choice in (uniform(0.4, MINIATURE).sparsity, SparsityConfig(0.4, 0.4))
    ]
    image = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    one, other = (encoder(image) for encoder in encoders)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
