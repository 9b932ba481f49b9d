"""Every rounding rule against what it is meant to be, in exact fractions and by trying all there is to choose."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from math import nextafter

import pytest

from sparsesam_deploy.errors import DensityError
from sparsesam_deploy.model import density
from sparsesam_deploy.ops.routing import ROUTING_RULES

SIXTY_FOURTHS = [k / 64 for k in range(1, 65)]
TOKENS = [k / 4096 for k in range(1, 4097)]
"""Every density that is a whole number of tokens of an image. All of them are exact in binary."""
DECIMALS = [k / 1000 for k in range(1, 1000)]
EVERYTHING = sorted({*TOKENS, *DECIMALS, 1.0})


def is_nearest(found: int, wanted: Fraction, unit: int = 1) -> bool:
    """Whether no other multiple of ``unit`` is nearer; of two as near it is the larger."""
    return found % unit == 0 and -Fraction(unit, 2) < found - wanted <= Fraction(unit, 2)


def works(rule: Callable[[float], object], densities: list[float]) -> list[float]:
    """The densities that ``rule`` has an answer to."""

    def has_answer(value: float) -> bool:
        try:
            rule(value)
        except DensityError:
            return False
        return True

    return [value for value in densities if has_answer(value)]


def test_lattice_offsets_are_the_nearest_of_64():
    assert [density.lattice_stripe_offsets(value) for value in SIXTY_FOURTHS] == list(range(1, 65))
    halves = [(k + 0.5) / 64 for k in range(64)]
    assert [density.lattice_stripe_offsets(value) for value in halves] == list(range(1, 65))
    for value in works(density.lattice_stripe_offsets, EVERYTHING):
        assert is_nearest(density.lattice_stripe_offsets(value), 64 * Fraction(value))


@pytest.mark.parametrize("num_tokens", [256, 4096])
def test_sequence_tiles_are_as_many_as_fit(num_tokens):
    def rule(value: float) -> int:
        return density.sequence_stripe_tiles(value, num_tokens)

    for value in works(rule, EVERYTHING):
        assert 64 * rule(value) <= Fraction(value) * num_tokens < 64 * (rule(value) + 1)
    assert works(rule, EVERYTHING) == [value for value in EVERYTHING if value >= 64 / num_tokens]
    assert rule(1.0) == num_tokens // 64


def test_windows_keep_one_tile_more_than_fit():
    """Of 196 keys: three tiles of 64 and a short one of 4."""
    expected = {0.0: 64, 0.25: 128, 0.5: 192, 0.75: 196}
    for value in EVERYTHING:
        reached = max(start for start in expected if start <= value)
        assert density.window_stripe_tokens(value, 196) == expected[reached]
    assert density.window_stripe_tokens(nextafter(0.25, 0), 196) == 64
    assert density.window_stripe_tokens(0.5, 64) == 64  # no more than there are


@pytest.mark.parametrize("num_tokens", [256, 4096])
def test_shared_groups_come_nearest_to_the_density(num_tokens):
    """n detailed groups of four rows and N / 4 - n of one."""
    num_all = num_tokens // 4
    rows = {n: 4 * n + (num_all - n) for n in range(num_all + 1)}
    for value in [*SIXTY_FOURTHS[15:], 0.3, 0.4, 0.7, 0.999, 0.2501]:
        found = density.shared_groups(value, num_tokens)
        wanted = Fraction(value) * num_tokens
        assert abs(rows[found] - wanted) == min(abs(count - wanted) for count in rows.values()) <= Fraction(3, 2)
    assert density.shared_groups(0.25, num_tokens) == 0
    assert density.shared_groups(1.0, num_tokens) == num_all


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
        assert density.shared_quadtree(value, 256) == quadtree_by_trial(value, 256), value


def test_quadtree_of_an_image_adds_up():
    for value in works(lambda value: density.shared_quadtree(value, 4096), EVERYTHING):
        detailed, merged = density.shared_quadtree(value, 4096)
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
    assert {value: density.shared_quadtree(value, 4096) for value in by_hand} == by_hand


def test_kept_tokens_are_the_nearest_whole_number_of_them():
    assert [density.kept_tokens(value, 4096, whole_groups=False) for value in TOKENS] == list(range(1, 4097))
    for value in works(lambda value: density.kept_tokens(value, 256, whole_groups=True), EVERYTHING):
        assert is_nearest(density.kept_tokens(value, 256, whole_groups=True), 256 * Fraction(value), 4)
        assert is_nearest(density.kept_tokens(value, 256, whole_groups=False), 256 * Fraction(value))


COUNTS = {
    "share-variance": (205, 0, 0),  # 0.15 x 4096 / 3 = 204.8
    "share-quadtree": (333, 128, 0),  # as many more, and one for each of the merged squares
    "skip-sobel": (410, 0, 0),  # 409.6 groups
    "skip-static": (0, 0, 1638),  # 1638.4 tokens
    "skip-group-rank": (0, 0, 1638),
}


@pytest.mark.parametrize("routing", ROUTING_RULES)
def test_each_routing_has_its_own_rule(routing):
    assert density.routed_counts(ROUTING_RULES[routing], 0.4, 4096) == COUNTS[routing]


RULES = {
    "lattice": density.lattice_stripe_offsets,
    "sequence": lambda value: 64 * density.sequence_stripe_tiles(value, 4096),
    "windows": lambda value: density.window_stripe_tokens(value, 196),
    "groups": lambda value: density.shared_groups(value, 4096),
    "quadtree": lambda value: sum(density.shared_quadtree(value, 4096)) - 2 * density.shared_quadtree(value, 4096)[1],
    "kept groups": lambda value: density.kept_tokens(value, 4096, whole_groups=True),
    "kept tokens": lambda value: density.kept_tokens(value, 4096, whole_groups=False),
}
MOST = {"lattice": 64, "sequence": 4096, "windows": 196, "groups": 1024, "quadtree": 1024} | dict.fromkeys(
    ("kept groups", "kept tokens"), 4096
)
LEAST = {
    "lattice": 0.5 / 64,
    "sequence": 1 / 64,
    "groups": 0.25,
    "quadtree": 0.15625,
    "kept groups": 2 / 4096,
    "kept tokens": 0.5 / 4096,
}
"""The least density that leaves something to compute, or that sharing comes to; windows always keep a tile."""


@pytest.mark.parametrize("name", RULES)
def test_a_higher_density_is_never_less_and_one_is_everything(name):
    """Of the quadtree what counts is how many more groups are detailed than squares are merged."""
    found = [RULES[name](value) for value in works(RULES[name], EVERYTHING)]
    assert found == sorted(found) and len(set(found)) > 3
    assert found[-1] == MOST[name]


@pytest.mark.parametrize("name", LEAST)
def test_the_error_names_the_least_density_that_works(name):
    rule, least = RULES[name], LEAST[name]
    rule(least)
    with pytest.raises(DensityError) as caught:
        rule(least - 1e-6)
    named = re.search(r"_density ([0-9.e-]+) .*; use at least ([0-9.e-]+)( or .*)?\.$", str(caught.value))
    assert float(named[1]) == pytest.approx(least - 1e-6, rel=1e-4)
    told = float(named[2])
    rule(told)
    assert least <= told < least + 1e-4
    with pytest.raises(DensityError):
        rule(told - 1e-4)


def test_sharing_in_windows_is_refused_in_its_own_words():
    with pytest.raises(DensityError, match=r"^windowed_density 0\.2 is below 0\.25.* or windowed_routing stripe\.$"):
        density.shared_groups(0.2, 4096, "windowed_density")
    with pytest.raises(DensityError, match=r"^mlp_density 0\.2 is below 0\.25.* or routing share-quadtree\.$"):
        density.shared_groups(0.2, 4096)
