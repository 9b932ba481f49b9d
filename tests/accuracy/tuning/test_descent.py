"""The search only ever goes down, takes what is cheapest first, and says what it did."""

from __future__ import annotations

from itertools import product
from math import ceil

import pytest
import torch

from sparsesam_deploy.accuracy.report.records import Sensitivity
from sparsesam_deploy.accuracy.tuning.cost_table import CostTable, Entry
from sparsesam_deploy.accuracy.tuning.descent import Descender, sensitivity, single_moves
from sparsesam_deploy.accuracy.tuning.schedule import SearchSpace
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.ops.routing import SHARING
from tests.helpers import TINY
from tests.networks import stock_encoder
from tests.ops.test_routing import LEAST

SPACE = SearchSpace(TINY, "share-variance")
DENSE, RUNGS = SPACE.dense, SPACE.ladders
sharing = pytest.mark.parametrize("routing", SHARING)


def ladder(routing: str) -> tuple[float, ...]:
    """Of MLPs: down to the first twentieth that the routing can have."""
    return 1.0, 0.7, 0.5, 0.4, 0.3, ceil(20 * LEAST[routing]) / 20


def table(**weights: float) -> CostTable:
    """Each half costs its density times its weight."""
    sizes = {"attention": 4.0, "windowed": 2.0, "mlp": 3.0} | weights
    entries = [Entry(knob=knob, density=d, cost=sizes[knob] * d) for knob, ladder in RUNGS.items() for d in ladder]
    values = {"measure": "flops", "family": "custom", "routing": SPACE.routing, "device": "counted"}
    return CostTable(**values, fixed=1.0, entries=tuple(entries))


def sensitivities(price) -> list[Sensitivity]:
    """``price(block, knob)`` times what is left out."""
    costs = table()
    return [
        sensitivity(move, price(move.block, move.knob) * (1 - move.after), costs, costs.total(DENSE, SPACE))
        for move in single_moves(SPACE)
    ]


@sharing
def test_moves_from_dense_are_every_rung_of_every_half(routing):
    moves = {(move.block, move.knob, move.after) for move in single_moves(SearchSpace(TINY, routing))}
    attention = {0: "windowed", 1: "attention", 2: "windowed", 3: "attention"}
    expected = {(block, knob, d) for block, knob in attention.items() for d in RUNGS[knob][1:]}
    assert moves == expected | set(product(range(4), ["mlp"], ladder(routing)[1:]))


def test_densities_and_costs_only_go_down():
    before, cost, predicted = DENSE, table().total(DENSE, SPACE), 0.0
    steps = list(Descender(sensitivities(lambda block, knob: 0.01 * (block + 1)), table(), SPACE))
    for step in steps:
        changed = [
            (knob, block)
            for block, knob in SPACE.knobs()
            if getattr(step.schedule, knob)[block] != getattr(before, knob)[block]
        ]
        assert changed == [(step.move.knob, step.move.block)]
        assert step.move.after < step.move.before
        assert step.cost < cost and step.predicted >= predicted
        assert step.cost == pytest.approx(table().total(step.schedule, SPACE))
        before, cost, predicted = step.schedule, step.cost, step.predicted
    lowest = {knob: ladder[-1] for knob, ladder in RUNGS.items()}
    assert all(getattr(before, knob)[block] == lowest[knob] for block, knob in SPACE.knobs())


def test_the_cheapest_for_what_it_saves_goes_first():
    """Block 2's MLP costs a tenth of the others: all of it goes before anything else."""
    steps = iter(
        Descender(sensitivities(lambda block, knob: 0.001 if (block, knob) == (2, "mlp") else 0.01), table(), SPACE)
    )
    assert (lambda move: (move.block, move.knob, move.after))(next(steps).move) == (2, "mlp", RUNGS["mlp"][-1])


def test_price_is_by_cost_and_not_by_density():
    """At equal loss the half that is ten times as expensive goes first."""
    costs = table(windowed=30.0)
    first = next(iter(Descender(sensitivities(lambda block, knob: 0.01), costs, SPACE)))
    assert first.move.knob == "windowed"


def test_a_rung_that_agrees_better_than_the_one_above_it_costs_no_less():
    """Noise must not make computing less look better."""
    measured = [
        one.model_copy(update={"disagreement": 0.03 if one.density == 0.7 else 0.01})
        for one in sensitivities(lambda block, knob: 0.01)
    ]
    descender = Descender(measured, table(), SPACE)
    halved = DENSE.after(next(move for move in single_moves(SPACE) if move.knob == "mlp" and move.after == 0.4))
    assert descender.predicted(halved) == pytest.approx(0.03)


def test_prediction_is_the_sum_of_what_was_measured_alone():
    measured = sensitivities(lambda block, knob: 0.01 * (block + 1))
    descender, schedule, expected = Descender(measured, table(), SPACE), DENSE, 0.0
    for one in measured:
        if (one.block, one.density) in ((0, 0.5), (3, 0.25)) and one.knob == "mlp":
            expected += one.disagreement
            schedule = schedule.after(
                next(m for m in single_moves(SPACE) if (m.block, m.knob, m.after) == (one.block, one.knob, one.density))
            )
    assert expected > 0
    assert descender.predicted(schedule) == pytest.approx(expected)


def test_what_saves_nothing_is_not_done():
    free = table(attention=0.0)
    steps = list(Descender(sensitivities(lambda block, knob: 0.0), free, SPACE))
    assert {step.move.knob for step in steps} == {"mlp", "windowed"}


def test_first_thinned_block():
    assert DENSE.first_thinned == 4
    move = next(move for move in single_moves(SPACE) if (move.block, move.knob) == (2, "windowed"))
    assert DENSE.after(move).first_thinned == 2


@sharing
def test_every_rung_can_be_built(routing):
    space = SearchSpace(TINY, routing)
    assert space.ladders["mlp"] == ladder(routing)
    assert next(space.uniform())[0] == ladder(routing)[-1]
    for move in single_moves(space):
        sparsity = space.dense.after(move).sparsity
        with torch.device("meta"):
            encoder = SparseSamEncoder(stock_encoder(TINY), TINY, sparsity)
        assert sparsity.routing == routing
        if move.knob == "mlp":
            assert encoder.blocks[move.block].mlp.mlp_rows == pytest.approx(move.after, abs=1.5 / 4096)
