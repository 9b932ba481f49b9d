"""Every rounding rule of the project, once: how many keys, tokens or groups a density stands for."""

from __future__ import annotations

import math

from ..errors import DensityError
from ..ops.geometry import GROUP, SQUARE, TILE
from ..ops.routing import RoutingRule


def _round(x: float) -> int:
    return math.floor(x + 0.5)


def _rounded_up(least: float) -> str:
    """A least density as an error names it: to four digits, and never a lower one, which would be refused again."""
    return f"{math.ceil(least * 1e4) / 1e4:g}"


def lattice_stripe_offsets(density: float) -> int:
    """Number of patch offsets in the lattice stripe."""
    offsets = _round(TILE * density)
    if offsets < 1:
        raise DensityError(
            f"attention_density {density:g} leaves no stripe tile; use at least {_rounded_up(0.5 / TILE)}."
        )
    return offsets


def sequence_stripe_tiles(density: float, num_tokens: int) -> int:
    """Number of stripe tiles in the interleaved and ranked orders of a global block: floor(d * tiles)."""
    tiles = math.floor(density * num_tokens / TILE)
    if tiles < 1:
        raise DensityError(f"attention_density {density:g} leaves no stripe tile; use at least {TILE / num_tokens:g}.")
    return tiles


def window_stripe_tokens(density: float, num_tokens: int) -> int:
    """Keys that every query of a window attends to: floor(d * tiles) + 1 tiles, the last tile being a short one."""
    tiles = math.floor(density * -(-num_tokens // TILE)) + 1
    return min(tiles * TILE, num_tokens)


def routed_counts(rule: RoutingRule, density: float, num_tokens: int) -> tuple[int, int, int]:
    """What a routed MLP at ``mlp_density`` computes: detailed 2x2 groups, merged 4x4 squares, and given tokens.

    Raises:
        DensityError: ``density`` leaves nothing to compute, or is less than what sharing comes to.
    """
    if rule.selection == "given":
        return 0, 0, kept_tokens(density, num_tokens, whole_groups=False)
    if rule.selection == "quadtree":
        return *shared_quadtree(density, num_tokens), 0
    if rule.share:
        return shared_groups(density, num_tokens), 0, 0
    return kept_tokens(density, num_tokens, whole_groups=True) // GROUP, 0, 0


def shared_groups(density: float, num_tokens: int, name: str = "mlp_density") -> int:
    """Number of detailed 2x2 groups when the flat ones share a row: 4 n + (N / 4 - n) = d N.

    ``name`` is the density's, for the error: ``mlp_density`` or ``windowed_density``.
    """
    if not 1 / GROUP <= density <= 1:
        other = "routing share-quadtree" if name == "mlp_density" else "windowed_routing stripe"
        raise DensityError(
            f"{name} {density:g} is below {1 / GROUP:g}, where every 2x2 group already shares one row; "
            f"use at least {1 / GROUP:g} or {other}."
        )
    return _round((density - 1 / GROUP) * num_tokens / (GROUP - 1))


def shared_quadtree(density: float, num_tokens: int) -> tuple[int, int]:
    """Numbers of detailed 2x2 groups and of merged 4x4 squares: 4 n + (N / 4 - 4 m - n) + m = d N.

    Half of the squares are merged, or all that the detailed groups leave whole.
    """
    num_all, most = num_tokens // GROUP, num_tokens // (2 * SQUARE)
    least = (num_all - (GROUP - 1) * most) / num_tokens
    if not least <= density <= 1:
        raise DensityError(
            f"mlp_density {density:g} is below {least:g}, where half of the 4x4 squares and every other 2x2 group "
            f"already share a row; use at least {least:g} or a skip routing."
        )
    extra = _round((density - 1 / GROUP) * num_tokens / (GROUP - 1))
    num_merged = min(most, (num_all - extra) // (GROUP + 1))
    return extra + num_merged, num_merged


def kept_tokens(density: float, num_tokens: int, whole_groups: bool) -> int:
    """Number of tokens that go through a ``skip`` MLP, a multiple of 4 where groups are kept whole."""
    unit = GROUP if whole_groups else 1
    kept = unit * _round(density * num_tokens / unit)
    if kept < 1:
        least = _rounded_up(0.5 * unit / num_tokens)
        raise DensityError(f"mlp_density {density:g} keeps no token of {num_tokens}; use at least {least}.")
    return kept
