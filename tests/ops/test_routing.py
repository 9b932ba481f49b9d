"""The table of routings: what a density stands for, in exact fractions and by trying all there is to choose, and how
many rows that is.
"""

from __future__ import annotations

from fractions import Fraction
from typing import get_args

import pytest
import torch

from sparsesam_deploy.errors import DensityError
from sparsesam_deploy.model.config import ROUTINGS
from sparsesam_deploy.ops.routed_mlp import Route
from sparsesam_deploy.ops.routed_mlp.onnx import PACKS
from sparsesam_deploy.ops.routing import (
    ROUTING_RULES,
    Routing,
    Selection,
    kept_tokens,
    shared_groups,
    shared_quadtree,
)
from tests.densities import EVERYTHING, SIXTY_FOURTHS, TOKENS, assert_least, is_nearest, works


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


@pytest.mark.parametrize("num_tokens", [256, 4096])
def test_shared_groups_come_nearest_to_the_density(num_tokens):
    """n detailed groups of four rows and N / 4 - n of one."""
    num_all = num_tokens // 4
    rows = {n: 4 * n + (num_all - n) for n in range(num_all + 1)}
    for value in [*SIXTY_FOURTHS[15:], 0.3, 0.4, 0.7, 0.999, 0.2501]:
        found = shared_groups(value, num_tokens)
        wanted = Fraction(value) * num_tokens
        assert abs(rows[found] - wanted) == min(abs(count - wanted) for count in rows.values()) <= Fraction(3, 2)
    assert shared_groups(0.25, num_tokens) == 0
    assert shared_groups(1.0, num_tokens) == num_all


def quadtree_by_trial(value: float, num_tokens: int) -> tuple[int, int]:
    """Of all pairs that are as near to the density as any can be, the one with most merged squares."""
    num_all = num_tokens // 4
    wanted = Fraction(value) * num_tokens
    fitting = []
    for merged in range(num_tokens // 32 + 1):
        whole = num_all - 4 * merged
        for detailed in range(whole + 1):
            rows = 4 * detailed + (whole - detailed) + merged
            fitting.append((abs(rows - wanted), -merged, -detailed))
    _, merged, detailed = min(fitting)
    return -detailed, -merged


def test_quadtree_merges_all_it_may_and_comes_nearest_to_the_density():
    quarters = [k / 64 for k in range(10, 65)]
    for value in quarters:
        assert shared_quadtree(value, 256)[:2] == quadtree_by_trial(value, 256), value


def test_quadtree_of_an_image_adds_up():
    for value in works(lambda value: shared_quadtree(value, 4096), EVERYTHING):
        detailed, merged, _ = shared_quadtree(value, 4096)
        flat = 1024 - 4 * merged - detailed
        assert min(detailed, merged, flat) >= 0 and merged <= 128
        assert abs(4 * detailed + flat + merged - Fraction(value) * 4096) <= Fraction(3, 2)
        # Fewer squares than half are merged only where the groups of one more are needed for detail.
        assert merged == 128 or 5 * (merged + 1) + (detailed - merged) > 1024
    by_hand = {
        0.15625: (0, 128),
        0.2: (60, 128),  # 128 - 68.27, rounded to 68 fewer detailed groups than merged squares
        0.25: (128, 128),
        0.3: (196, 128),
        0.53125: (512, 128),  # no flat group is left
        0.75: (751, 68),
        0.999: (1023, 0),
        1.0: (1024, 0),
    }
    assert {value: shared_quadtree(value, 4096)[:2] for value in by_hand} == by_hand


def test_kept_tokens_are_the_nearest_whole_number_of_them():
    assert [kept_tokens(value, 4096, whole_groups=False) for value in TOKENS] == list(range(1, 4097))
    for value in works(lambda value: kept_tokens(value, 256, whole_groups=True), EVERYTHING):
        assert is_nearest(kept_tokens(value, 256, whole_groups=True), 256 * Fraction(value), 4)
        assert is_nearest(kept_tokens(value, 256, whole_groups=False), 256 * Fraction(value))


COUNTS = {
    "share-variance": (205, 0, 0),  # 0.15 x 4096 / 3 = 204.8
    "share-quadtree": (333, 128, 0),  # as many more, and one for each of the merged squares
    "skip-sobel": (410, 0, 0),  # 409.6 groups
    "skip-static": (0, 0, 1638),  # 1638.4 tokens
    "skip-group-rank": (0, 0, 1638),
}
"""Groups, merged squares and given tokens at density 0.4 of 4096 tokens."""
LEAST = {
    "share-variance": 0.25,  # a row for each group
    "share-quadtree": 0.15625,  # a row for each square in one half, for each group in the other
    "skip-sobel": 2 / 4096,
    "skip-static": 0.5 / 4096,
    "skip-group-rank": 0.5 / 4096,
}
"""The least density that leaves something to compute, or that sharing comes to."""
routings = pytest.mark.parametrize("routing", ROUTING_RULES)


def computed(routing: str, density: float) -> int:
    """Rows of 4096 tokens, each row that is shared by 4 or by 16 tokens once."""
    groups, merged, given = ROUTING_RULES[routing].counts(density, 4096)
    flat = 1024 - 4 * merged - groups if ROUTING_RULES[routing].share else 0
    return 4 * groups + flat + merged + given


@routings
def test_each_routing_has_its_own_rule(routing):
    assert ROUTING_RULES[routing].counts(0.4, 4096) == COUNTS[routing]


@routings
def test_a_higher_density_is_never_less_and_one_is_everything(routing):
    densities = works(lambda value: computed(routing, value), EVERYTHING)
    found = [computed(routing, value) for value in densities]
    assert found == sorted(found) and len(set(found)) > 3
    assert found[-1] == 4096
    assert all(abs(rows - 4096 * value) <= 2 for rows, value in zip(found, densities, strict=True))


@routings
def test_the_error_names_the_least_density_that_works(routing):
    rule = ROUTING_RULES[routing]
    assert_least(lambda value: rule.counts(value, 4096), LEAST[routing])
    assert rule.least == (LEAST[routing] if rule.share else 0)


def test_sharing_in_windows_is_refused_in_its_own_words():
    with pytest.raises(DensityError, match=r"^windowed_density 0\.2 is below 0\.25.* or windowed_routing stripe\.$"):
        shared_groups(0.2, 4096, "windowed_density")
    with pytest.raises(DensityError, match=r"^mlp_density 0\.2 is below 0\.25.* or routing share-quadtree\.$"):
        shared_groups(0.2, 4096)
