"""Groups ranked by score and the rows of norm2(x) written in that order, rows by index, and updates added back."""

from __future__ import annotations

from ...triton_language import jit, kernel, tl
from .declaration import RoutedKernel, whole_rows
from .norm import normalised

RANK_CHUNK = 256
"""Scores that a program compares its own with at a time."""


@jit
def _sort_key(score):
    """Integers in the order of the scores, NaN the highest: a total order, which NaN breaks.

    That holds for scores of 0 and more. Those of -1 and less, of which there may be some, come after these, -1 last.
    """
    return tl.where(score == score, score.to(tl.int32, bitcast=True), 0x7FFFFFFF)


@jit
def ranks(scores, group, num_all, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """How many groups come before each: a permutation for any scores. Reads all scores of the image."""
    own = _sort_key(tl.load(scores + group, mask=group < num_all, other=0.0))[:, None]
    count = tl.zeros([BLOCK, CHUNK], tl.int32)
    for start in range(0, num_all, CHUNK):
        other = start + tl.arange(0, CHUNK)[None, :]
        # past the last group: the lowest key at a higher index, which comes before none
        key = _sort_key(tl.load(scores + other, mask=other < num_all, other=-1.0))
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
    rank = ranks(scores + image * num_all, group, num_all, CHUNK, BLOCK)
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
    y = normalised(x, weight, bias, epsilon, token[:, :, None], needed[:, None, None], CHANNELS, WIDTH)
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
    y = normalised(x, weight, bias, epsilon, token[:, None], inside[:, None], CHANNELS, WIDTH)
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


def ranked_rows(embed_dim: int) -> dict[str, int]:
    """The constants of a kernel that ranks groups and then holds all channels of their rows."""
    return {**whole_rows(embed_dim), "CHUNK": RANK_CHUNK}


def _pack(name: str, share: bool) -> RoutedKernel:
    def constants(embed_dim: int) -> dict[str, int]:
        return {**ranked_rows(embed_dim), "SHARE": share}

    return RoutedKernel(name, _pack_kernel, constants, live_rows=4, selection="variance", setting="pack")


PACK_SHARE, PACK_SKIP = _pack("pack_share", True), _pack("pack_skip", False)
GIVEN = RoutedKernel("given", _given_kernel, whole_rows, live_rows=1, selection="given")
UNPACK = RoutedKernel("unpack", _unpack_kernel, whole_rows, live_rows=1, selection=None)
