"""How many keys of an attention a density stands for; `ops.routing` has how many rows of an MLP."""

from __future__ import annotations

import math

from ..errors import DensityError
from ..ops.geometry import TILE
from ..ops.rounding import nearest, rounded_up


def lattice_stripe_offsets(density: float) -> int:
    """Number of patch offsets in the lattice stripe."""
    offsets = nearest(TILE * density)
    if offsets < 1:
        raise DensityError(
            f"attention_density {density:g} leaves no stripe tile; use at least {rounded_up(0.5 / TILE)}."
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
