"""The table of routings, and how many rows a route comes to."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from sparsesam_deploy.model.config import ROUTINGS
from sparsesam_deploy.ops.routed_mlp import Route
from sparsesam_deploy.ops.routed_mlp.onnx import PACKS
from sparsesam_deploy.ops.routing import ROUTING_RULES, Routing, Selection


def test_every_routing_has_a_rule_and_every_rule_a_node_type():
    assert get_args(Routing) == tuple(ROUTING_RULES) == ROUTINGS
    assert {rule.selection for rule in ROUTING_RULES.values()} == set(get_args(Selection))
    assert {(pack.selection, pack.share) for pack in PACKS} == {
        (rule.selection, rule.share) for rule in ROUTING_RULES.values()
    }


@pytest.mark.parametrize(
    ("route", "rows"),
    (
        (Route("variance", True, 10), 4 * 10 + (64 - 10)),
        (Route("quadtree", True, 10, 5), 4 * 10 + (64 - 10 - 4 * 5) + 5),
        (Route("quadtree", True, 0, 16), 16),
        (Route("sobel", False, 10), 4 * 10),
        (Route("given", False, keep_indices=torch.zeros(1, 7)), 7),
    ),
    ids=("share", "quadtree", "all-squares-merged", "skip", "given"),
)
def test_rows_of_256_tokens(route: Route, rows: int):
    assert route.num_rows(256) == rows
