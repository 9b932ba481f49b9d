"""Densities that rounding rules are tried with, and what is asked of every rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

import pytest

from sparsesam_deploy.errors import DensityError

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


def assert_least(rule: Callable[[float], object], least: float) -> None:
    """``rule`` works down to ``least``, and below it names a density to use that works and is hardly more."""
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
