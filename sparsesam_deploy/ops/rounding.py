"""How a density becomes a number, and how an error names the least one."""

from __future__ import annotations

import math


def nearest(x: float) -> int:
    """The nearest integer, of two as near the larger."""
    return math.floor(x + 0.5)


def rounded_up(least: float) -> str:
    """A least density as an error names it: to four digits, and never a lower one, which would be refused again."""
    return f"{math.ceil(least * 1e4) / 1e4:g}"
