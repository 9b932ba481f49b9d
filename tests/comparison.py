"""How far one tensor is from another, written apart from the package's own figures, which tests judge too."""

from __future__ import annotations

from torch import Tensor


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Relative distance in L2, in float64; NaN where anything is NaN, which passes no threshold."""
    found, expected = found.double(), expected.double()
    return ((found - expected).norm() / expected.norm()).item()
