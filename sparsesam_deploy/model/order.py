"""Token orders and index tables, all of them constants of the exported graph.

Every table is an int32 numpy array. ``perm[i]`` is the raster index of position i; ``inv_perm[perm[i]] == i``.
The residual stream is always in Z-order, so that a 2x2 group is four consecutive rows and a 4x4 square sixteen.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..ops.geometry import GROUP, TILE


def _frozen(table: np.ndarray) -> np.ndarray:
    table = np.ascontiguousarray(table, dtype=np.int32)
    table.setflags(write=False)
    return table


@lru_cache
def z_order(grid_size: int) -> np.ndarray:
    """Raster indices of a square grid sorted by Morton code, row bit above column bit: (grid_size**2,)."""
    row, col = np.divmod(np.arange(grid_size * grid_size), grid_size)
    code = np.zeros_like(row)
    for bit in range(grid_size.bit_length()):
        code |= ((col >> bit) & 1) << (2 * bit) | ((row >> bit) & 1) << (2 * bit + 1)
    return _frozen(np.argsort(code, kind="stable"))


def inverse(perm: np.ndarray) -> np.ndarray:
    """The permutation that undoes ``perm``."""
    inv = np.empty_like(perm)
    inv[perm] = np.arange(perm.size, dtype=perm.dtype)
    return _frozen(inv)


@lru_cache
def lattice_offsets() -> np.ndarray:
    """The 64 offsets inside an 8x8 patch in bit-reversed order: any prefix is an even sub-grid of the image."""
    offsets = np.arange(TILE)
    return _frozen(np.sum([((offsets >> bit) & 1) << (5 - bit) for bit in range(6)], axis=0))


def lattice_sequence(num_tokens: int) -> np.ndarray:
    """Z-order positions, lattice offset by lattice offset, so that a stripe is a prefix: (num_tokens,)."""
    patches = np.arange(0, num_tokens, TILE)
    return _frozen((lattice_offsets()[:, None] + patches[None, :]).reshape(-1))


def interleave(groups: np.ndarray) -> np.ndarray:
    """Member 0 of every group, then member 1 of every group, and so on: (num_groups, 4) -> (num_tokens,)."""
    return _frozen(groups.T.reshape(-1))


def z_groups(num_tokens: int) -> np.ndarray:
    """2x2 groups of a Z-ordered stream: (num_tokens / 4, 4)."""
    return _frozen(np.arange(num_tokens).reshape(-1, GROUP))


@lru_cache
def window_groups(window_size: int) -> np.ndarray:
    """2x2 groups of one window in raster slots, along the window's own Z-order: (window_size**2 / 4, 4)."""
    return _frozen(z_order(window_size).reshape(-1, GROUP))


@lru_cache
def windows(grid_size: int, window_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Window membership as tables over a Z-ordered stream.

    Returns ``members`` (num_windows, window_size**2): the stream position in every slot, slots in raster order inside
    the window, grid_size**2 for padding; and ``slots`` (grid_size**2,): where each stream position lies in the
    flattened ``members``.
    """
    per_side = -(-grid_size // window_size)
    padded = np.full((per_side * window_size,) * 2, grid_size**2, dtype=np.int32)
    padded[:grid_size, :grid_size] = inverse(z_order(grid_size)).reshape(grid_size, grid_size)
    members = padded.reshape(per_side, window_size, per_side, window_size).transpose(0, 2, 1, 3)
    members = members.reshape(per_side**2, window_size**2)
    flat = members.reshape(-1)
    slots = np.empty(grid_size**2, dtype=np.int32)
    slots[flat[flat < grid_size**2]] = np.flatnonzero(flat < grid_size**2)
    return _frozen(members), _frozen(slots)


def rank_of_row(num_groups: int, num_all: int) -> np.ndarray:
    """The rank of each row's group, where the best ``num_groups`` groups have 4 rows each and the others one: (R,)."""
    return _frozen(np.concatenate((np.arange(num_groups).repeat(GROUP), np.arange(num_groups, num_all))))


def relative_index(size: int) -> np.ndarray:
    """Row of a rel-pos table for (query coordinate, key coordinate): (size, size), q - k + size - 1."""
    coordinate = np.arange(size)
    return _frozen(coordinate[:, None] - coordinate[None, :] + size - 1)


def membership(tiles: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """1 where an entry of ``tiles`` also is one of ``keys``, else 0, in the shape of ``tiles``."""
    return _frozen(np.isin(tiles, keys))
