"""Cost tables: counted and measured of the halves they name, and read again only where they fit."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sparsesam_deploy.accuracy.tuning import cost_table
from sparsesam_deploy.accuracy.tuning.cost_table import CostTable, counted_table, measured_table
from sparsesam_deploy.accuracy.tuning.schedule import SearchSpace
from sparsesam_deploy.accuracy.tuning.tuner import Budget
from sparsesam_deploy.errors import InvalidInput
from tests.accuracy.evaluation.test_multiplications import QUADTREE_ROWS, TOKENS
from tests.accuracy.miniature import CPU, MINIATURE, SPACE, loaded, run

QUADTREE = SearchSpace(MINIATURE, "share-quadtree")
pytestmark = pytest.mark.usefixtures("short_ladders")


def test_counted_costs_add_up_to_one():
    table = counted_table(loaded(), SPACE)
    assert table.total(SPACE.dense, SPACE) == pytest.approx(1)


def test_measured_costs_are_times_and_are_read_again(tmp_path):
    table = measured_table(loaded(), SPACE, CPU, "reference", torch.float32, lambda share, words: None)
    assert table.measure == "ms" and table.fixed > 0 and all(entry.cost > 0 for entry in table.entries)
    assert table.of("attention", 1.0) > table.of("attention", 0.125)
    path = tmp_path / "costs.json"
    path.write_text(table.model_dump_json())
    assert CostTable.read(path, SPACE) == table
    most = 0.8 * table.total(SPACE.dense, SPACE)
    found = run(tmp_path, Budget(target_ms=most), table)
    chosen = next(point for point in found.points if point.name == found.chosen)
    assert found.cost_measure == "ms"
    assert chosen.cost.ms <= most


@pytest.mark.parametrize("text", ["", "{}", '{"measure": "ms"}', "[]"])
def test_a_bad_cost_table_is_refused(tmp_path, text):
    path = tmp_path / "costs.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"cost table .*costs\.json cannot be read"):
        CostTable.read(path, SPACE)


WRONG_TABLES = {
    "another-model": (lambda table: table.model_copy(update={"family": "vit_h"}), "is of vit_h, not of custom"),
    "another-routing": (
        lambda table: table.model_copy(update={"routing": "share-quadtree"}),
        "is of share-quadtree, not of share-variance; measure it with that --routing",
    ),
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
    table = counted_table(loaded(), SPACE).model_copy(update={"measure": "ms"})
    path.write_text(change(table).model_dump_json())
    with pytest.raises(InvalidInput, match=words):
        CostTable.read(path, SPACE)


def test_a_counted_table_is_of_its_routing():
    table = counted_table(loaded(), QUADTREE)
    assert table.of("mlp", 0.2) / table.of("mlp", 1.0) == pytest.approx(QUADTREE_ROWS[0.2] / TOKENS)
    assert table.routing == "share-quadtree"


def test_a_measured_table_times_what_its_densities_say(monkeypatch):
    """Torch's own count of matrix products in place of the clock: 8 C^2 multiplications and additions a row."""

    def products(call, device) -> float:
        with FlopCounterMode(display=False) as counter:
            call()
        return counter.get_total_flops()

    monkeypatch.setattr(cost_table, "_milliseconds", products)
    table = measured_table(loaded(), QUADTREE, CPU, "reference", torch.float32, lambda share, words: None)
    for density, rows in ((0.2, QUADTREE_ROWS[0.2]), (1.0, TOKENS)):
        assert table.of("mlp", density) == 2 * 8 * MINIATURE.embed_dim**2 * rows
    assert table.routing == "share-quadtree"
