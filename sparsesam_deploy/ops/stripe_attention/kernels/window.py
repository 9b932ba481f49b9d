"""Dense attention inside windows, read from and written to the stream itself: no window_partition, no padded copy.

Keys are taken as whole rows of a window, 14 columns as 16: as in the lattice kernel the column half of the bias is the
same for all tiles and stays in registers, where it also is -inf in the two columns that do not exist. The bias comes
from the 27 rows of each table, so a program makes its queries' terms itself, with two small products, and keeps them
in scratch of its own: the shift from table rows to key coordinates is in the addresses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...launch import launch_settings
from ...triton_language import dot, jit, kernel, tl
from .relative_terms import LOG2_E, head_parts, precision
from .tile import accumulate, dot_keys, line_bias, load_channels, pick_rows, store_channels


@jit
def _store_row_terms(
    terms,
    row,
    q,
    q_rest,
    table,
    log2_e,
    SIDE: tl.constexpr,
    COLS: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """q . R[row - key_row + SIDE - 1], times log2(e): (SIDE, BLOCK_M), consecutive queries at consecutive addresses."""
    entry = tl.arange(0, 2 * COLS)
    relative, relative_rest = load_channels(table + entry * (MAIN + REST), MAIN, REST, entry < 2 * SIDE - 1)
    product = dot(relative.to(q.dtype), tl.trans(q), None, PRECISION)
    if REST > 0:
        product = dot(relative_rest.to(q.dtype), tl.trans(q_rest), product, PRECISION)
    key_row = row[None, :] + (SIDE - 1) - entry[:, None]
    place = terms + key_row * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    # A row has an even number of slots. Triton 3.6 would spread the lanes of a warp over rows if it were not told.
    place = tl.max_contiguous(place, (1, 2))
    tl.store(place, product * log2_e, mask=(key_row >= 0) & (key_row < SIDE))


@jit
def _store_col_terms(
    terms,
    col,
    q,
    q_rest,
    table,
    log2_e,
    SIDE: tl.constexpr,
    COLS: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """q . R[col - key_col + SIDE - 1], times log2(e): (BLOCK_M, COLS), consecutive keys at consecutive addresses.

    The table is read backwards, so that key columns ascend.
    """
    back = tl.arange(0, 2 * COLS)
    entries = table + (2 * SIDE - 2 - back) * (MAIN + REST)
    relative, relative_rest = load_channels(entries, MAIN, REST, back < 2 * SIDE - 1)
    product = dot(q, tl.trans(relative.to(q.dtype)), None, PRECISION)
    if REST > 0:
        product = dot(q_rest, tl.trans(relative_rest.to(q.dtype)), product, PRECISION)
    key_col = col[:, None] - (SIDE - 1) + back[None, :]
    place = terms + tl.arange(0, BLOCK_M)[:, None] * COLS + key_col
    tl.store(place, product * log2_e, mask=(key_col >= 0) & (key_col < SIDE))


@kernel
def _window_attention(
    qkv,
    qkv_bias,
    rel_pos_h,
    rel_pos_w,
    scratch,
    members,
    out,
    num_heads,
    num_windows,
    num_tokens,
    scale,
    log2_e,
    SIDE: tl.constexpr,
    COLS: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """BLOCK_M consecutive slots of one window and head."""
    num_slots: tl.constexpr = SIDE * SIDE
    block = tl.program_id(0) % tl.cdiv(num_slots, BLOCK_M)
    head = tl.program_id(0) // tl.cdiv(num_slots, BLOCK_M) % num_heads
    sequence = tl.program_id(0) // tl.cdiv(num_slots, BLOCK_M) // num_heads  # image by image, window by window
    head_dim: tl.constexpr = MAIN + REST
    channels = num_heads * head_dim
    image = (sequence // num_windows).to(tl.int64) * num_tokens
    q_base = qkv + image * 3 * channels + head * head_dim
    k_base = q_base + channels
    v_base = k_base + channels
    padding_k = qkv_bias + channels + head * head_dim
    padding_v = padding_k + channels
    window = members + (sequence % num_windows) * num_slots

    slot = block * BLOCK_M + tl.arange(0, BLOCK_M)
    query = tl.load(window + slot, mask=slot < num_slots, other=num_tokens)
    real = query < num_tokens
    if tl.max(real.to(tl.int32), 0) == 0:  # below the image's last row
        return
    q, q_rest = load_channels(q_base + query * 3 * channels, MAIN, REST, real)
    slot = tl.minimum(slot, num_slots - 1)
    row_terms = scratch + tl.program_id(0).to(tl.int64) * ((SIDE + COLS) * BLOCK_M)
    col_terms = row_terms + SIDE * BLOCK_M
    _store_row_terms(row_terms, slot // SIDE, q, q_rest, rel_pos_h, log2_e, SIDE, COLS, MAIN, REST, BLOCK_M, PRECISION)
    _store_col_terms(col_terms, slot % SIDE, q, q_rest, rel_pos_w, log2_e, SIDE, COLS, MAIN, REST, BLOCK_M, PRECISION)
    tl.debug_barrier()  # other threads of this program read them

    ROWS: tl.constexpr = BLOCK_N // COLS
    key = tl.arange(0, BLOCK_N)
    row_in_tile, col = key // COLS, key % COLS
    # Columns that do not exist are read too, so that a load is of 16 bytes, and masked then.
    col_bias = tl.load(col_terms + tl.arange(0, BLOCK_M)[:, None] * COLS + col[None, :])
    col_bias = tl.where((col < SIDE)[None, :], col_bias, float("-inf"))
    query_row_terms = row_terms + tl.arange(0, BLOCK_M)
    peak = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, MAIN), tl.float32)
    acc_rest = tl.zeros((BLOCK_M, REST if REST > 0 else 16), tl.float32)
    for first_row in range(0, SIDE, ROWS):
        position = tl.load(window + (first_row + row_in_tile) * SIDE + col, mask=col < SIDE, other=num_tokens)
        padded = position >= num_tokens
        key_rows = pick_rows(padded, padding_k, k_base + position * 3 * channels)
        value_rows = pick_rows(padded, padding_v, v_base + position * 3 * channels)
        score = dot_keys(q, q_rest, key_rows, MAIN, REST, PRECISION) * scale + col_bias
        score += line_bias(query_row_terms, first_row, BLOCK_M, row_in_tile, ROWS)
        peak, total, acc, acc_rest = accumulate(score, value_rows, peak, total, acc, acc_rest, MAIN, REST, PRECISION)
    rows = out + (image + query) * channels + head * head_dim
    store_channels(rows, acc / total[:, None], acc_rest / total[:, None], MAIN, REST, real)


def window_attention(
    qkv: Tensor, qkv_bias: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, members: Tensor, num_heads: int
) -> Tensor:
    """Attention of every token over its whole window.

    Args:
        qkv: (B, N, 3 * C), tokens in any order.
        qkv_bias: (3 * C,) what a padded slot holds, of the same dtype.
        rel_pos_h, rel_pos_w: (2 * side - 1, head_dim).
        members: (W, side**2) int32 position of each window slot in raster order, N for padding; ``side`` is even.
        num_heads: number of heads.

    Returns:
        (B, N, C) in the dtype of ``qkv``.
    """
    batch, num_tokens, width = qkv.shape
    num_windows, num_slots = members.shape
    side, channels = int(num_slots**0.5), width // 3
    head_dim = channels // num_heads
    launch = launch_settings("stripe_attention.window", qkv.device, head_dim)
    programs = batch * num_windows * num_heads * -(-num_slots // launch.block)
    constants = window_constants(side, head_dim, launch.block)
    scratch = torch.empty(programs, side + constants["COLS"], launch.block, dtype=torch.float32, device=qkv.device)
    out = torch.empty(batch, num_tokens, channels, dtype=qkv.dtype, device=qkv.device)
    _window_attention[(programs,)](
        qkv,
        qkv_bias,
        rel_pos_h,
        rel_pos_w,
        scratch,
        members,
        out,
        num_heads,
        num_windows,
        num_tokens,
        head_dim**-0.5 * LOG2_E,
        LOG2_E,
        **constants,
        PRECISION=precision(qkv),
        **launch.options,
    )
    return out


def window_constants(side: int, head_dim: int, block: int) -> dict[str, int]:
    """What `_window_attention` is compiled for: tiles of two rows of keys, a row padded to a power of two."""
    cols = max(8, 1 << (side - 1).bit_length())
    return {"SIDE": side, "COLS": cols, **head_parts(head_dim), "BLOCK_M": block, "BLOCK_N": 2 * cols}
