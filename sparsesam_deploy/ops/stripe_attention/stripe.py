"""Who attends to whom in one stripe attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Stripe:
    """Who attends to whom in one block, as index tables over the slots of one attention sequence.

    A sequence is the whole Z-ordered stream (global blocks, L = grid_size**2) or one window in raster order (windowed
    blocks, L = window_size**2). Tables are integer tensors; ``*`` axes are absent in static patterns and
    (batch * num_windows, num_heads) in data-dependent ones.

    Attributes:
        rel_index: (S, S) row of ``rel_pos_h`` / ``rel_pos_w`` for a query and a key coordinate.
        perm, inv_perm: (L,) raster index of each slot and its inverse; ``None`` when slots are in raster order.
        keys: (*, M) slots that every query attends to; ``None`` means all of them.
        tiles: (*, T, 64) slots by tile, where each query also attends to its own tile; ``None`` means the stripe alone.
        tile_in_stripe: (T, 64) 1 where a slot of ``tiles`` already is in ``keys`` and must not be counted twice.
        members: (num_windows, L) stream position in every window slot, num_tokens for padding; ``None`` = global.
        slots: (num_tokens,) flat window slot of every stream position.
        lattice_offsets: how many lattice offsets ``keys`` stands for, where slots are in Z-order and it does; lets a
            kernel compute positions instead of reading them.
    """

    rel_index: Tensor
    perm: Tensor | None = None
    inv_perm: Tensor | None = None
    keys: Tensor | None = None
    tiles: Tensor | None = None
    tile_in_stripe: Tensor | None = None
    members: Tensor | None = None
    slots: Tensor | None = None
    lattice_offsets: int | None = None
