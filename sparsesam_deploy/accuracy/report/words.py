"""Numbers as the report prints them: true minus signs, fixed digits so that columns align."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .records import Cost, Interval

MINUS = "\u2212"
NOTHING = "\u2013"  # printed for what is no number
ABBREVIATIONS = {"mlp": "MLP", "miou": "mIoU"}
KNOBS = {"attention": "attention keys", "mlp": "MLP rows", "windowed": "windowed attention"}


def plain(value: float | None, digits: int = 3) -> str:
    """``0.877``; a dash for None, infinities and what is no number."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 4) -> str:
    """``+0.0012``, but no sign on what rounds to zero."""
    text = plain(value, digits)
    return text.lstrip(MINUS) if not text.strip(f"{MINUS}0.") else text if text[0] in MINUS + NOTHING else f"+{text}"


def percent(share: float | None, digits: int = 1) -> str:
    """``62.5 %`` of a share of 0.625."""
    return NOTHING if share is None or not math.isfinite(share) else f"{plain(100 * share, digits)}\u00a0%"


def span(interval: Interval, digits: int = 4, sign: bool = True) -> str:
    """The ends of an interval: ``-0.0091 to -0.0012``."""
    write = signed if sign else plain
    return f"{write(interval.low, digits)} to {write(interval.high, digits)}"


def duration(seconds: float) -> str:
    """``42 s``, ``17 min`` or ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f}\u00a0s"
    minutes = round(seconds / 60)
    return f"{minutes}\u00a0min" if minutes < 90 else f"{minutes // 60}\u00a0h {minutes % 60:02d}\u00a0min"


def settings_in_words(settings: Mapping[str, object]) -> str:
    """``attention density 0.25, order lattice``; densities of single blocks are listed elsewhere."""

    def word(value: object) -> str:
        return "per block" if isinstance(value, (list, tuple)) else f"{value:g}" if _number(value) else str(value)

    shown = {name: value for name, value in settings.items() if value is not None}
    return ", ".join(f"{spelled(name)} {word(value)}" for name, value in shown.items())


def per_block(settings: Mapping[str, object]) -> dict[str, list[float]]:
    """The settings that have one number for each block, by name."""
    return {spelled(n): [float(d) for d in v] for n, v in settings.items() if isinstance(v, (list, tuple))}


def spelled(name: str) -> str:
    """``MLP density`` for ``mlp_density``."""
    return " ".join(ABBREVIATIONS.get(word, word) for word in name.split("_"))


def cost_in_words(cost: Cost) -> str:
    """``62.5 % of the dense multiplications, 7.1 ms``."""
    measured = "" if cost.ms is None else f", {plain(cost.ms, 2)}\u00a0ms"
    return f"{percent(cost.flops)} of the dense encoder\u2019s multiplications{measured}"


def flipped(loss: Interval) -> Interval:
    """A drop of mean IoU as a change of it."""
    return Interval(mean=-loss.mean, low=-loss.high, high=-loss.low)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
