"""``routed_mlp_pack`` and ``routed_mlp_unpack`` as Triton kernels; `reference` defines what they compute.

The residual stream x is large, scores are small: one kernel reduces x to a score per group, the next ranks the groups
and normalises again only the rows it writes. norm2(x) is never stored, nothing is sorted, and nothing waits for the
GPU. Where a kernel says what it moves, "the stream" is x once, N * C elements per image.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor

from ...errors import InvalidInput
from ..launch import launch_settings
from ..triton_language import jit, kernel, require_launchable, tl, triton
from .reference import GROUP, Route, num_packed_rows

RANK_CHUNK = 256
"""Scores that a program compares its own with at a time."""
SOBEL_CHANNELS = 256
"""Channels that a program of the Sobel kernel holds at a time, for all neighbours of its groups."""


def routed_mlp_pack(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, route: Route) -> tuple[Tensor, Tensor]:
    """Normalise, score, select and pack the rows that go through the MLP.

    Groups are ordered by descending score, equal scores by index; NaN counts as the highest score, as in torch's sort.
    Entries of ``perm``, ``inv_perm`` and ``keep_indices`` are not checked, since that would mean waiting for the GPU:
    they must be in 0..N-1, each at most once.

    Args:
        x: (B, N, C) residual stream in Z-order, contiguous; any float dtype.
        weight, bias, epsilon: norm2, (C,) of any float dtype; its statistics are float32.
        route: how rows are chosen. For ``sobel`` the four tokens of a group must be a 2x2 cell of the square grid.

    Returns:
        rows (B, R, C) in the dtype of ``x`` and row_of_token (B, N) int32, as the reference's.

    Raises:
        InvalidInput: a tensor is not contiguous, or has another shape or device than x asks for; ``num_groups`` is
            not between 0 and N / 4; x is on the CPU.
        EnvironmentProblem: Triton is not installed.
    """
    _require(x, weight=(weight, x.shape[2:]), bias=(bias, x.shape[2:]))
    batch, num_tokens, channels = x.shape
    norm, width = (weight, bias, epsilon), triton.next_power_of_2(channels)
    num_rows = num_packed_rows(num_tokens, route.selection, route.share, route.num_groups, route.keep_indices)

    if route.selection == "given":
        keep = route.keep_indices.contiguous()
        _require(x, keep_indices=(keep, (1 if len(keep) == 1 else batch, num_rows)))
        rows = torch.empty((batch, num_rows, channels), dtype=x.dtype, device=x.device)
        row_of_token = torch.full((batch, num_tokens), num_rows, dtype=torch.int32, device=x.device)
        given = (keep, keep.expand(batch, -1).stride(0), rows, row_of_token, num_tokens, num_rows)
        _launch(_given_kernel, "given", num_rows, x, *norm, *given, WIDTH=width)
        return rows, row_of_token

    num_all = num_tokens // GROUP
    if num_tokens % GROUP or not 0 <= route.num_groups <= num_all:
        raise InvalidInput(
            f"num_groups {route.num_groups} of {num_tokens} tokens cannot be selected; give a multiple of {GROUP} "
            f"tokens, {GROUP} to a group, and a num_groups between 0 and {num_all}."
        )
    scores = torch.empty((batch, num_all), dtype=torch.float32, device=x.device)
    if route.selection == "variance":
        _launch(_score_kernel, "score", num_all, x, *norm, scores, num_all, WIDTH=width)
    else:
        _require(x, perm=(route.perm, (num_tokens,)), inv_perm=(route.inv_perm, (num_tokens,)))
        sobel = (route.perm, route.inv_perm, scores, num_all, isqrt(num_tokens))
        _launch(_sobel_kernel, "sobel", num_all, x, *sobel, WIDTH=min(width, SOBEL_CHANNELS))
    rows = torch.empty((batch, num_rows, channels), dtype=x.dtype, device=x.device)
    row_of_token = torch.empty((batch, num_tokens), dtype=torch.int32, device=x.device)
    pack = (scores, rows, row_of_token, num_all, route.num_groups, num_rows)
    _launch(_pack_kernel, "pack", num_all, x, *norm, *pack, WIDTH=width, CHUNK=RANK_CHUNK, SHARE=route.share)
    return rows, row_of_token


def routed_mlp_unpack(x: Tensor, update: Tensor, row_of_token: Tensor) -> Tensor:
    """Add to each token the update of its row; the sum is float32, rounded once.

    Args:
        x: (B, N, C) residual stream, contiguous; any float dtype.
        update: (B, R, C), contiguous; any float dtype.
        row_of_token: (B, N) int32: the row whose update each token receives, R for none.

    Returns:
        (B, N, C) in the dtype of ``x``.

    Raises:
        InvalidInput: a tensor is not contiguous, or has another shape or device than x asks for; x is on the CPU.
        EnvironmentProblem: Triton is not installed.
    """
    batch, num_tokens, channels = x.shape
    num_rows = update.shape[1]
    _require(x, update=(update, (batch, num_rows, channels)), row_of_token=(row_of_token, (batch, num_tokens)))
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    arguments = (x, update, row_of_token, out, num_tokens, num_rows)
    _launch(_unpack_kernel, "unpack", num_tokens, *arguments, WIDTH=triton.next_power_of_2(channels))
    return out


def _require(x: Tensor, **others: tuple[Tensor, tuple[int, ...]]) -> None:
    """Raise unless kernels, which check nothing, can run where x is and read x and the others, of the given shapes."""
    require_launchable(x)
    for name, (tensor, shape) in {"x": (x, x.shape), **others}.items():
        if tuple(tensor.shape) != tuple(shape) or not tensor.is_contiguous() or tensor.device != x.device:
            raise InvalidInput(
                f"{name} has shape {tuple(tensor.shape)} and strides {tensor.stride()} on {tensor.device}; give shape "
                f"{tuple(shape)} on {x.device}, contiguous (tensor.contiguous())."
            )


def _launch(function: Any, name: str, count: int, x: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run ``function`` with a program for each block of ``count`` groups, rows or tokens of each image."""
    batch, _, channels = x.shape
    launch = launch_settings(f"routed_mlp.{name}", x.device, channels)
    grid = (triton.cdiv(count, launch.block), batch)
    with torch.cuda.device_of(x):  # Triton launches on the current GPU
        function[grid](x, *arguments, CHANNELS=channels, BLOCK=launch.block, **constants, **launch.options)


@jit
def _normalised(x, weight, bias, epsilon, row, inside, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """norm2 of rows of x in float32; ``row`` and ``inside`` end in an axis of 1, which becomes WIDTH, 0 past CHANNELS.

    The whole row is in registers, so that the variance is that of centred values. The division is exact, because the
    mean of equal values must be that value: its error, normalised, would be noise of size 1.
    """
    channel = tl.arange(0, WIDTH)
    exists = channel < CHANNELS
    values = tl.load(x + row * CHANNELS + channel, mask=inside & exists, other=0.0).to(tl.float32)
    mean = tl.div_rn(tl.sum(values, -1, keep_dims=True), float(CHANNELS))
    centred = tl.where(exists, values - mean, 0.0)
    variance = tl.sum(centred * centred, -1, keep_dims=True) / CHANNELS
    scale = tl.load(weight + channel, mask=exists, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)
    return centred * tl.rsqrt(variance + epsilon) * scale + shift


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
    y = _normalised(x, weight, bias, epsilon, row, inside[:, None, None], CHANNELS, WIDTH)
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


@jit
def _sort_key(score):
    """Integers in the order of the scores, which are not negative, NaN the highest: a total order, which NaN breaks."""
    return tl.where(score == score, score.to(tl.int32, bitcast=True), 0x7FFFFFFF)


@jit
def _rank(scores, group, num_all, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """How many groups come before each: a permutation for any scores. Reads all scores of the image."""
    own = _sort_key(tl.load(scores + group, mask=group < num_all, other=0.0))[:, None]
    count = tl.zeros([BLOCK, CHUNK], tl.int32)
    for start in range(0, num_all, CHUNK):
        other = start + tl.arange(0, CHUNK)[None, :]
        # past the last group: the lowest score at a higher index, which comes before none
        key = _sort_key(tl.load(scores + other, mask=other < num_all, other=0.0))
        before = (key > own) | ((key == own) & (other < group[:, None]))
        count += before.to(tl.int32)
    return tl.sum(count, 1)


@kernel
def _pack_kernel(
    x, weight, bias, epsilon, scores, rows, row_of_token, num_all, num_groups, num_rows,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, SHARE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rank groups, write the rows of norm2(x) of those ranked first, and (SHARE) the mean row of each of the others.

    Reads the stream once (without SHARE, ``num_groups / num_all`` of it) and writes ``num_rows / N`` of it.
    """
    group = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    inside = group < num_all
    rank = _rank(scores + image * num_all, group, num_all, CHUNK, BLOCK)
    detailed = inside & (rank < num_groups)
    member = tl.arange(0, 4)[None, :]
    token = 4 * group[:, None] + member

    own_row = 4 * rank[:, None] + member
    other_row = 3 * num_groups + rank if SHARE else tl.zeros_like(rank) + num_rows
    row = tl.where(detailed[:, None], own_row, other_row[:, None])
    tl.store(row_of_token + image * num_all * 4 + token, row, mask=inside[:, None])

    x += image * num_all * 4 * CHANNELS
    rows += image * num_rows * CHANNELS
    needed = inside if SHARE else detailed
    y = _normalised(x, weight, bias, epsilon, token[:, :, None], needed[:, None, None], CHANNELS, WIDTH)
    channel = tl.arange(0, WIDTH)
    exists = channel < CHANNELS
    mask = detailed[:, None, None] & exists
    tl.store(rows + own_row[:, :, None] * CHANNELS + channel, y.to(rows.dtype.element_ty), mask=mask)
    if SHARE:
        mean = tl.sum(y, 1) / 4
        mask = (inside & ~detailed)[:, None] & exists
        tl.store(rows + other_row[:, None] * CHANNELS + channel, mean.to(rows.dtype.element_ty), mask=mask)


@kernel
def _given_kernel(
    x, weight, bias, epsilon, keep, keep_stride, rows, row_of_token, num_tokens, num_rows,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows of norm2(x) by index, and where they went. Reads and writes ``num_rows / N`` of the stream."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    inside = row < num_rows
    token = tl.load(keep + image * keep_stride + row, mask=inside, other=0).to(tl.int32)
    tl.store(row_of_token + image * num_tokens + token, row, mask=inside)
    x += image * num_tokens * CHANNELS
    y = _normalised(x, weight, bias, epsilon, token[:, None], inside[:, None], CHANNELS, WIDTH)
    channel = tl.arange(0, WIDTH)
    out = rows + image * num_rows * CHANNELS + row[:, None] * CHANNELS + channel
    tl.store(out, y.to(rows.dtype.element_ty), mask=inside[:, None] & (channel < CHANNELS))


@kernel
def _unpack_kernel(
    x, update, row_of_token, out, num_tokens, num_rows,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x plus each token's update. Reads the stream and ``num_rows / N`` of it or more, and writes it once."""
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    inside = token < num_tokens
    row = tl.load(row_of_token + image * num_tokens + token, mask=inside, other=num_rows)
    channel = tl.arange(0, WIDTH)
    exists = (channel < CHANNELS)[None, :]
    mask = inside[:, None] & exists
    place = token[:, None] * CHANNELS + channel[None, :]
    stream = image * num_tokens * CHANNELS
    values = tl.load(x + stream + place, mask=mask, other=0.0).to(tl.float32)
    update += image * num_rows * CHANNELS
    mask_update = (row < num_rows)[:, None] & exists
    added = tl.load(update + row[:, None] * CHANNELS + channel[None, :], mask=mask_update, other=0.0)
    tl.store(out + stream + place, (values + added.to(tl.float32)).to(out.dtype.element_ty), mask=mask)
