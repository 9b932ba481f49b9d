"""What `_score_kernel` and `_pack_kernel` do, one level more: 4x4 squares, some of which share a single row.

A square is 16 consecutive tokens, four 2x2 groups. A program takes the groups of its squares one after the other, so
that it has no more in registers than a program that works on groups, and the square's mean.
"""

from __future__ import annotations

from ...triton_language import jit, kernel, tl
from .declaration import RoutedKernel, whole_rows
from .norm import normalised
from .pack import RANK_CHUNK, ranked_rows, ranks


@jit
def _group(x, weight, bias, epsilon, group, inside, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """Rows of norm2(x) of a group of each square, (BLOCK, 4, WIDTH), and their mean, (BLOCK, WIDTH)."""
    row = (4 * group[:, None] + tl.arange(0, 4)[None, :])[:, :, None]
    y = normalised(x, weight, bias, epsilon, row, inside[:, None, None], CHANNELS, WIDTH)
    return y, tl.sum(y, 1) / 4


@kernel
def _quadtree_score_kernel(
    x, weight, bias, epsilon, scores, square_scores, num_squares,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`group_variance` of norm2(x) for groups and for squares. Reads the stream once.

    A square's squared deviations are put together group by group (Chan, Golub and LeVeque 1979, for 4 * i rows and
    4 more), not as a difference of squares: those of equal rows are exactly 0.
    """
    square = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    inside = square < num_squares
    x += image * num_squares * 16 * CHANNELS
    mean = tl.zeros([BLOCK, WIDTH], tl.float32)
    square_score = tl.zeros([BLOCK], tl.float32)
    for i in range(4):
        group = 4 * square + i
        y, group_mean = _group(x, weight, bias, epsilon, group, inside, CHANNELS, WIDTH)
        deviation = y - group_mean[:, None, :]
        score = tl.sum(tl.sum(deviation * deviation, 1), 1)
        tl.store(scores + image * num_squares * 4 + group, score, mask=inside)
        difference = group_mean - mean
        share = tl.div_rn(1.0, i + 1.0)  # exact where it is 1, as the mean of equal rows must be
        square_score += score + tl.sum(difference * difference, 1) * (4 * i * share)
        mean += difference * share
    tl.store(square_scores + image * num_squares + square, square_score, mask=inside)


@kernel
def _quadtree_merge_kernel(
    scores, square_scores, num_squares, num_merged,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rank squares, and write over the scores of the groups of those ranked last: -1 in the first of these squares, -2
    in the next and so on. The rest stay. Reads the squares' scores.

    `ranks` puts these groups behind all others, since no score is negative; the number says which row they share.
    """
    square = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    place = ranks(square_scores + image * num_squares, square, num_squares, CHUNK, BLOCK) - (num_squares - num_merged)
    group = 4 * square[:, None] + tl.arange(0, 4)[None, :]
    merged = (square < num_squares) & (place >= 0)
    tl.store(scores + image * num_squares * 4 + group, (-1.0 - place)[:, None], mask=merged[:, None])


@kernel
def _quadtree_pack_kernel(
    x, weight, bias, epsilon, scores, rows, row_of_token, num_squares, num_groups, num_merged, num_rows,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rank groups, write the rows of norm2(x) of those ranked first, the mean row of each that is not in a merged
    square, and that of each merged square. ``scores`` are those that `_quadtree_merge_kernel` left.

    Reads the stream once and writes ``num_rows / N`` of it.
    """
    square = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    inside = square < num_squares
    scores += image * num_squares * 4
    x += image * num_squares * 16 * CHANNELS
    rows += image * num_rows * CHANNELS
    row_of_token += image * num_squares * 16
    four = tl.arange(0, 4)[None, :]
    group = 4 * tl.program_id(0) * BLOCK + tl.arange(0, 4 * BLOCK)
    rank_of_group = tl.reshape(ranks(scores, group, 4 * num_squares, CHUNK, 4 * BLOCK), [BLOCK, 4])
    score = tl.load(scores + 4 * square, mask=inside, other=0.0)
    merged = score < 0
    merged_row = num_rows - num_merged + tl.where(merged, -1.0 - score, 0.0).to(tl.int32)

    channel = tl.arange(0, WIDTH)
    exists = channel < CHANNELS
    element = rows.dtype.element_ty
    mean = tl.zeros([BLOCK, WIDTH], tl.float32)
    for i in range(4):
        rank = tl.sum(tl.where(four == i, rank_of_group, 0), 1)
        detailed = inside & (rank < num_groups)
        own_row = 4 * rank[:, None] + four
        other_row = tl.where(merged, merged_row, 3 * num_groups + rank)
        row = tl.where(detailed[:, None], own_row, other_row[:, None])
        token = 16 * square[:, None] + 4 * i + four
        tl.store(row_of_token + token, row, mask=inside[:, None])

        y, group_mean = _group(x, weight, bias, epsilon, 4 * square + i, inside, CHANNELS, WIDTH)
        mask = detailed[:, None, None] & exists
        tl.store(rows + own_row[:, :, None] * CHANNELS + channel, y.to(element), mask=mask)
        mask = (inside & ~detailed & ~merged)[:, None] & exists
        tl.store(rows + other_row[:, None] * CHANNELS + channel, group_mean.to(element), mask=mask)
        mean += group_mean
    mask = merged[:, None] & exists
    tl.store(rows + merged_row[:, None] * CHANNELS + channel, (mean / 4).to(element), mask=mask)


# live are a group of each square at a time, and the square's mean
QUADTREE_SCORE = RoutedKernel("quadtree_score", _quadtree_score_kernel, whole_rows, live_rows=5, selection="quadtree")
QUADTREE_MERGE = RoutedKernel(
    "quadtree_merge", _quadtree_merge_kernel, lambda embed_dim: {"CHUNK": RANK_CHUNK}, live_rows=1, selection="quadtree"
)
QUADTREE_PACK = RoutedKernel("quadtree_pack", _quadtree_pack_kernel, ranked_rows, live_rows=5, selection="quadtree")
