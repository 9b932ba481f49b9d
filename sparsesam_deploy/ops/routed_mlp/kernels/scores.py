"""The score of each 2x2 group: the variance of its rows of norm2(x), or the Sobel energy of x."""

from __future__ import annotations

from ...triton_language import jit, kernel, tl
from .declaration import RoutedKernel, whole_rows
from .norm import normalised

SOBEL_CHANNELS = 256
"""Channels that a program of the Sobel kernel holds at a time, for all neighbours of its groups."""


@kernel
def _score_kernel(
    x, weight, bias, epsilon, scores, num_all,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`group_variance` of norm2(x). Reads the stream once."""
    group = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    inside = group < num_all
    row = (4 * group[:, None] + tl.arange(0, 4)[None, :])[:, :, None]
    x += image * num_all * 4 * CHANNELS
    y = normalised(x, weight, bias, epsilon, row, inside[:, None, None], CHANNELS, WIDTH)
    deviation = y - tl.sum(y, 1, keep_dims=True) / 4
    score = tl.sum(tl.sum(deviation * deviation, 1), 1)
    tl.store(scores + image * num_all + group, score, mask=inside)


@jit
def _token(x, inv_perm, row, column, grid_size, channel, CHANNELS: tl.constexpr):
    """Some channels of the tokens at (row, column) of the grid, float32; 0 outside it."""
    inside = (row >= 0) & (row < grid_size) & (column >= 0) & (column < grid_size)
    token = tl.load(inv_perm + row * grid_size + column, mask=inside, other=0).to(tl.int32)
    mask = inside[:, None] & (channel < CHANNELS)[None, :]
    return tl.load(x + token[:, None] * CHANNELS + channel[None, :], mask=mask, other=0.0).to(tl.float32)


@jit
def _across(x, inv_perm, row, column, grid_size, channel, CHANNELS: tl.constexpr):
    """Difference and smoothed value at (row, column) and (row, column + 1), along the row: four tokens are read."""
    a = _token(x, inv_perm, row, column - 1, grid_size, channel, CHANNELS)
    b = _token(x, inv_perm, row, column, grid_size, channel, CHANNELS)
    c = _token(x, inv_perm, row, column + 1, grid_size, channel, CHANNELS)
    d = _token(x, inv_perm, row, column + 2, grid_size, channel, CHANNELS)
    return c - a, a + 2 * b + c, d - b, b + 2 * c + d


@jit
def _squared_gradient(above, here, below, smooth_above, smooth_below):
    """From the differences along three rows, and the smoothed values of the first and the last."""
    grad_x = above + 2 * here + below
    grad_y = smooth_below - smooth_above
    return grad_x * grad_x + grad_y * grad_y


@kernel
def _sobel_kernel(
    x, perm, inv_perm, scores, num_all, grid_size,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`group_sobel` of x, not normalised. Each group reads its 4x4 neighbours, 16 tokens for 4: the stream 4 times, of
    which all but once should come from a cache, since groups next in order are close.
    """
    group = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    inside = group < num_all
    member = 4 * group[:, None] + tl.arange(0, 4)[None, :]
    corner = tl.min(tl.load(perm + member, mask=inside[:, None], other=0).to(tl.int32), 1)
    row, column = corner // grid_size, corner % grid_size
    x += image * num_all * 4 * CHANNELS
    energy0 = tl.zeros([BLOCK, WIDTH], tl.float32)
    energy1 = tl.zeros([BLOCK, WIDTH], tl.float32)
    energy2 = tl.zeros([BLOCK, WIDTH], tl.float32)
    energy3 = tl.zeros([BLOCK, WIDTH], tl.float32)
    for start in range(0, CHANNELS, WIDTH):
        channel = start + tl.arange(0, WIDTH)
        # of the rows from above the cell to below it: difference and smoothed value, on the left and on the right
        dl0, sl0, dr0, sr0 = _across(x, inv_perm, row - 1, column, grid_size, channel, CHANNELS)
        dl1, sl1, dr1, sr1 = _across(x, inv_perm, row, column, grid_size, channel, CHANNELS)
        dl2, sl2, dr2, sr2 = _across(x, inv_perm, row + 1, column, grid_size, channel, CHANNELS)
        energy0 += _squared_gradient(dl0, dl1, dl2, sl0, sl2)
        energy1 += _squared_gradient(dr0, dr1, dr2, sr0, sr2)
        dl3, sl3, dr3, sr3 = _across(x, inv_perm, row + 2, column, grid_size, channel, CHANNELS)
        energy2 += _squared_gradient(dl1, dl2, dl3, sl1, sl3)
        energy3 += _squared_gradient(dr1, dr2, dr3, sr1, sr3)
    upper = tl.sqrt_rn(tl.sum(energy0, 1) / CHANNELS) + tl.sqrt_rn(tl.sum(energy1, 1) / CHANNELS)
    lower = tl.sqrt_rn(tl.sum(energy2, 1) / CHANNELS) + tl.sqrt_rn(tl.sum(energy3, 1) / CHANNELS)
    tl.store(scores + image * num_all + group, (upper + lower) / 4, mask=inside)


def _sobel_constants(embed_dim: int) -> dict[str, int]:
    constants = whole_rows(embed_dim)
    return {**constants, "WIDTH": min(constants["WIDTH"], SOBEL_CHANNELS)}


SCORE = RoutedKernel("score", _score_kernel, whole_rows, live_rows=4, selection="variance")
# live are four sums, and the twelve rows of one step
SOBEL = RoutedKernel("sobel", _sobel_kernel, _sobel_constants, live_rows=16, selection="sobel")
