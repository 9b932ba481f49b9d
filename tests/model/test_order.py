"""The token order's tables against their definitions, exhaustively: a Z-order, windows, distances, a lattice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything.modeling.image_encoder import get_rel_pos, window_partition

from sparsesam_deploy.model.order import lattice_offsets, relative_index, windows, z_order
from tests.oracle import lattice_sequence, morton_code

GRIDS = (2, 6, 14, 16, 64, 70)


def coordinates(grid_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each token of the stream."""
    return np.divmod(z_order(grid_size).astype(np.int64), grid_size)


@pytest.mark.parametrize("grid_size", GRIDS)
def test_z_order_visits_every_token_once(grid_size):
    assert np.array_equal(np.sort(z_order(grid_size)), np.arange(grid_size**2))


@pytest.mark.parametrize("grid_size", GRIDS)
def test_z_order_sorts_morton_codes(grid_size):
    codes = [
        morton_code(row, col) for row, col in zip(*(axis.tolist() for axis in coordinates(grid_size)), strict=True)
    ]
    assert codes == sorted(codes)


@pytest.mark.parametrize("grid_size", [2, 4, 16, 64])
def test_on_powers_of_two_the_position_is_the_morton_code(grid_size):
    """Also fixes the order of the bits: position 1 is one column to the right, position 2 one row down."""
    rows, cols = coordinates(grid_size)
    for bit in range(grid_size.bit_length() - 1):
        position = np.arange(grid_size**2)
        assert np.array_equal(cols >> bit & 1, position >> 2 * bit & 1)
        assert np.array_equal(rows >> bit & 1, position >> 2 * bit + 1 & 1)


@pytest.mark.parametrize("grid_size", GRIDS)
def test_four_in_a_row_are_one_cell(grid_size):
    rows, cols = (axis.reshape(-1, 4) for axis in coordinates(grid_size))
    assert np.array_equal(rows - rows[:, :1], np.broadcast_to([0, 0, 1, 1], rows.shape))
    assert np.array_equal(cols - cols[:, :1], np.broadcast_to([0, 1, 0, 1], cols.shape))
    assert not (rows[:, 0] % 2).any() and not (cols[:, 0] % 2).any()


def test_tile_is_one_patch():
    rows, cols = (axis.reshape(64, 64) // 8 for axis in coordinates(64))
    assert (rows == rows[:, :1]).all() and (cols == cols[:, :1]).all()
    assert len(set(zip(rows[:, 0].tolist(), cols[:, 0].tolist(), strict=True))) == 64


def test_lattice_offsets_are_a_permutation():
    assert np.array_equal(np.sort(lattice_offsets()), np.arange(64))


@pytest.mark.parametrize("exponent", range(7), ids=lambda exponent: f"first-{2**exponent}")
def test_lattice_prefix_is_an_even_sub_grid(exponent):
    """2^e offsets are every token of a grid with steps 8 >> ceil(e/2) down and 8 >> floor(e/2) across."""
    rows, cols = (axis.reshape(64, 64) for axis in coordinates(64))
    chosen = lattice_offsets()[: 2**exponent]
    down, across = 8 >> (exponent + 1) // 2, 8 >> exponent // 2
    found = set(zip(rows[:, chosen].ravel().tolist(), cols[:, chosen].ravel().tolist(), strict=True))
    assert found == {(row, col) for row in range(0, 64, down) for col in range(0, 64, across)}


def test_lattice_offsets_give_the_sequence_of_the_oracle():
    stream = (np.arange(64)[None, :] * 64 + lattice_offsets()[:, None]).ravel()
    assert np.array_equal(z_order(64)[stream], lattice_sequence().numpy())


def test_windows_are_those_of_segment_anything():
    members, slots = windows(64, 14)
    stream_of_raster = np.empty(4096, np.int64)
    stream_of_raster[z_order(64)] = np.arange(4096)
    # One more than the position, so that the zeros window_partition pads with can be told from position 0.
    grid = torch.as_tensor(stream_of_raster + 1).view(1, 64, 64, 1)
    expected = window_partition(grid, 14)[0].view(25, 196).numpy() - 1
    assert np.array_equal(members, np.where(expected < 0, 4096, expected))
    assert np.array_equal(members.ravel()[slots], np.arange(4096))


@pytest.mark.parametrize(("grid_size", "window_size"), [(16, 14), (14, 14), (6, 4), (64, 8)])
def test_windows_of_other_grids(grid_size, window_size):
    members, slots = windows(grid_size, window_size)
    side = -(-grid_size // window_size)
    assert members.shape == (side**2, window_size**2)
    assert (members == grid_size**2).sum() == (side * window_size) ** 2 - grid_size**2
    assert np.array_equal(members.ravel()[slots], np.arange(grid_size**2))


@pytest.mark.parametrize("size", [14, 64])
def test_relative_index_picks_segment_anythings_rows(size):
    table = torch.arange(2 * size - 1.0)[:, None]
    assert np.array_equal(relative_index(size), get_rel_pos(size, size, table)[..., 0].numpy())
