"""How many keys a density stands for, against what it is meant to be, in exact fractions."""

from __future__ import annotations

from fractions import Fraction
from math import nextafter

import pytest

from sparsesam_deploy.model import density
from tests.densities import EVERYTHING, SIXTY_FOURTHS, assert_least, is_nearest, works


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


RULES = {
    "lattice": density.lattice_stripe_offsets,
    "sequence": lambda value: 64 * density.sequence_stripe_tiles(value, 4096),
    "windows": lambda value: density.window_stripe_tokens(value, 196),
}
MOST = {"lattice": 64, "sequence": 4096, "windows": 196}
LEAST = {"lattice": 0.5 / 64, "sequence": 1 / 64}
"""The least density that leaves something to compute; windows always keep a tile."""


@pytest.mark.parametrize("name", RULES)
def test_a_higher_density_is_never_less_and_one_is_everything(name):
    found = [RULES[name](value) for value in works(RULES[name], EVERYTHING)]
    assert found == sorted(found) and len(set(found)) > 3
    assert found[-1] == MOST[name]


@pytest.mark.parametrize("name", LEAST)
def test_the_error_names_the_least_density_that_works(name):
    assert_least(RULES[name], LEAST[name])
