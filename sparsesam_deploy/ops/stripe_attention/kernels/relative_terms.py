"""The per-query halves of SAM's decomposed position bias, computed once for all keys on a row or a column.

``bias[q, k] = q . Rh[q_row - k_row + S - 1] + q . Rw[q_col - k_col + S - 1]``, segment_anything's
``add_decomposed_rel_pos``, needs S numbers for rows and S for columns per query. All queries on one grid line share the
slice of the table, so each line is one small matrix product and nothing has to be shifted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...launch import launch_settings
from ...triton_language import dot, kernel, tl
from .tile import load_channels

LOG2_E = 1.4426950408889634


@kernel
def _relative_terms(
    qkv,
    rel_pos_h,
    rel_pos_w,
    source,
    terms,
    num_heads,
    num_sequences,
    num_tokens,
    row_step,
    col_step,
    log2_e,
    SIDE: tl.constexpr,
    LINE: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One line of queries: a grid row against all key rows, or a grid column against all key columns."""
    line = tl.program_id(0) % SIDE
    by_column = tl.program_id(0) // SIDE % 2
    table = tl.program_id(0) // (2 * SIDE)  # sequence by sequence, head by head
    head = table % num_heads
    sequence = table // num_heads
    head_dim: tl.constexpr = MAIN + REST
    channels = num_heads * head_dim

    other = tl.arange(0, LINE)
    slot = tl.where(by_column == 1, other * SIDE + line, line * SIDE + other)
    slot_in_window = (sequence % num_sequences) * SIDE * SIDE + slot
    position = tl.load(source + slot_in_window, mask=other < SIDE, other=num_tokens)
    image = qkv + (sequence // num_sequences).to(tl.int64) * num_tokens * 3 * channels + head * head_dim
    q, q_rest = load_channels(image + position * 3 * channels, MAIN, REST, position < num_tokens)

    key = tl.arange(0, LINE)
    rel_pos = tl.where(by_column == 1, rel_pos_w, rel_pos_h)
    relative, relative_rest = load_channels(rel_pos + (line - key + SIDE - 1) * head_dim, MAIN, REST, key < SIDE)
    product = dot(relative.to(q.dtype), tl.trans(q), None, PRECISION)
    if REST > 0:
        product = dot(relative_rest.to(q.dtype), tl.trans(q_rest), product, PRECISION)

    step = tl.where(by_column == 1, col_step, row_step)
    num_rows = (SIDE + row_step - 1) // row_step
    num_coordinates = num_rows + (SIDE + col_step - 1) // col_step
    coordinate = table.to(tl.int64) * num_coordinates + by_column * num_rows + key // step
    place = terms + coordinate[:, None] * (SIDE * SIDE) + (line * SIDE + other)[None, :]
    wanted = (key < SIDE) & (key % step == 0)
    tl.store(place, product * log2_e, mask=wanted[:, None] & (other < SIDE)[None, :])


def relative_terms(
    qkv: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    source: Tensor,
    num_heads: int,
    side: int,
    row_step: int = 1,
    col_step: int = 1,
) -> Tensor:
    """Position terms of every query, times log2(e).

    Args:
        qkv: (B, N, 3 * C), see `stripe_attention`.
        rel_pos_h, rel_pos_w: (2 * side - 1, head_dim).
        source: (W, side**2) int32 stream position of every slot in raster order, N or more for padding.
        num_heads, side: heads, and the grid's side.
        row_step, col_step: only key coordinates that are multiples of these are computed.

    Returns:
        (B * W, num_heads, side / row_step + side / col_step, side**2) float32: key rows, then key columns. The last
        axis is the query in raster order for rows, and in column-major order for columns.
    """
    batch, num_tokens, width = qkv.shape
    num_sequences = source.numel() // side**2
    head_dim = width // 3 // num_heads
    coordinates = -(-side // row_step) + -(-side // col_step)
    terms = torch.empty(batch * num_sequences, num_heads, coordinates, side**2, device=qkv.device)
    launch = launch_settings("stripe_attention.relative_terms", qkv.device, head_dim)
    _relative_terms[(2 * side * batch * num_sequences * num_heads,)](
        qkv,
        rel_pos_h,
        rel_pos_w,
        source,
        terms,
        num_heads,
        num_sequences,
        num_tokens,
        row_step,
        col_step,
        LOG2_E,
        **relative_terms_constants(side, head_dim),
        PRECISION=precision(qkv),
        **launch.options,
    )
    return terms


def relative_terms_constants(side: int, head_dim: int) -> dict[str, int]:
    """What `_relative_terms` is compiled for: a line of the grid, padded to what a matrix product takes."""
    return {"SIDE": side, "LINE": max(16, 1 << (side - 1).bit_length()), **head_parts(head_dim)}


def head_parts(head_dim: int) -> dict[str, int]:
    """head_dim as MAIN + REST, powers of two: 80 is 64 + 16."""
    main = 1 << (head_dim.bit_length() - 1)
    return {"MAIN": main, "REST": head_dim - main}


def precision(qkv: Tensor) -> str:
    """Matrix products of float32 are float32, not TF32; half precision ignores this."""
    return "ieee" if qkv.dtype == torch.float32 else "tf32"
