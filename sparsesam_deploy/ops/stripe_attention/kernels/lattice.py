"""Attention over a lattice stripe: every query of a global block against the same even sub-grids of keys.

The first n offsets in bit-reversed order are, bit by bit of n, regular sub-grids of the image: the chunk of bit k has
2**k offsets, every (8 >> ceil(k / 2))-th row and every (8 >> floor(k / 2))-th column. A tile of keys is taken as whole
rows of such a sub-grid. So all tiles of a chunk have the same columns: the column half of the bias is loaded once and
stays in registers, and the row half is one number per query and key row. No one-hot product, no gather of a bias, no
list of blocks; positions are computed, so the loads of the next tile can be issued while this one is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...geometry import PATCH
from ...launch import launch_settings
from ...triton_language import jit, kernel, tl
from .relative_terms import LOG2_E, head_parts, precision, relative_terms
from .tile import accumulate, dot_keys, line_bias, load_channels, store_channels


@jit
def spread_bits(x):
    """abcdef -> a0b0c0d0e0f: a coordinate's share of a Morton code."""
    x = (x | (x << 4)) & 0x0F0F
    x = (x | (x << 2)) & 0x3333
    return (x | (x << 1)) & 0x5555


@jit
def chunk_origin(num_offsets, bit):
    """First row and column of the chunk of ``bit``: its bit-reversed first offset, whose bits are r2 c2 r1 c1 r0 c0."""
    start = (num_offsets >> (bit + 1)) << (bit + 1)
    row = (start & 1) << 2 | (start >> 2 & 1) << 1 | (start >> 4 & 1)
    col = (start >> 1 & 1) << 2 | (start >> 3 & 1) << 1 | (start >> 5 & 1)
    return row, col


@jit
def _attend_chunks(
    q,
    q_rest,
    k_base,
    v_base,
    row_terms,
    col_terms,
    peak,
    total,
    acc,
    acc_rest,
    channels,
    num_offsets,
    row_step,
    col_step,
    scale,
    COL_BITS: tl.constexpr,
    GRID: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The chunks, at most two, that have 2**COL_BITS columns in every patch."""
    COLS: tl.constexpr = (GRID // 8) << COL_BITS
    TILE: tl.constexpr = BLOCK_N if BLOCK_N > COLS else COLS
    ROWS: tl.constexpr = TILE // COLS
    num_tokens: tl.constexpr = GRID * GRID
    key = tl.arange(0, TILE)
    row_in_tile = key // COLS
    for half in range(2):
        bit = 2 * COL_BITS + 1 - half
        if (num_offsets >> bit) & 1:
            first_row, first_col = chunk_origin(num_offsets, bit)
            stride = 8 >> ((bit + 1) // 2)
            col = first_col + (8 >> COL_BITS) * (key % COLS)
            col_bias = tl.load(col_terms[:, None] + (col // col_step)[None, :] * num_tokens)
            col_code = spread_bits(col)
            chunk_terms = row_terms + first_row // row_step * num_tokens
            term_stride = stride // row_step * num_tokens
            for tile in range((num_tokens // 64 << bit) // TILE):
                row = first_row + stride * (tile * ROWS + row_in_tile)
                position = (spread_bits(row) << 1 | col_code) * 3 * channels
                score = dot_keys(q, q_rest, k_base + position, MAIN, REST, PRECISION) * scale + col_bias
                score += line_bias(chunk_terms, tile * ROWS, term_stride, row_in_tile, ROWS)
                peak, total, acc, acc_rest = accumulate(
                    score, v_base + position, peak, total, acc, acc_rest, MAIN, REST, PRECISION
                )
    return peak, total, acc, acc_rest


@kernel
def _lattice_attention(
    qkv,
    terms,
    perm,
    out,
    num_heads,
    num_offsets,
    row_step,
    col_step,
    scale,
    GRID: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """BLOCK_M consecutive queries of one head."""
    num_tokens: tl.constexpr = GRID * GRID
    block = tl.program_id(0) % (num_tokens // BLOCK_M)
    sequence = tl.program_id(0) // (num_tokens // BLOCK_M)  # image by image, head by head
    head = sequence % num_heads
    head_dim: tl.constexpr = MAIN + REST
    channels = num_heads * head_dim
    image = (sequence // num_heads).to(tl.int64) * num_tokens
    q_base = qkv + image * 3 * channels + head * head_dim
    k_base = q_base + channels
    v_base = k_base + channels

    query = block * BLOCK_M + tl.arange(0, BLOCK_M)
    everywhere = query >= 0
    q, q_rest = load_channels(q_base + query * 3 * channels, MAIN, REST, everywhere)
    raster = tl.load(perm + query)
    num_rows = GRID // row_step
    head_terms = terms + sequence.to(tl.int64) * (num_rows + GRID // col_step) * num_tokens
    row_terms = head_terms + raster
    col_terms = head_terms + num_rows * num_tokens + (raster % GRID) * GRID + raster // GRID

    peak = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, MAIN), tl.float32)
    acc_rest = tl.zeros((BLOCK_M, REST if REST > 0 else 16), tl.float32)

    for col_bits in tl.static_range(3, -1, -1):
        peak, total, acc, acc_rest = _attend_chunks(
            q,
            q_rest,
            k_base,
            v_base,
            row_terms,
            col_terms,
            peak,
            total,
            acc,
            acc_rest,
            channels,
            num_offsets,
            row_step,
            col_step,
            scale,
            COL_BITS=col_bits,
            GRID=GRID,
            MAIN=MAIN,
            REST=REST,
            BLOCK_N=BLOCK_N,
            PRECISION=PRECISION,
        )

    rows = out + (image + query) * channels + head * head_dim
    store_channels(rows, acc / total[:, None], acc_rest / total[:, None], MAIN, REST, everywhere)


def lattice_attention(
    qkv: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    perm: Tensor,
    inv_perm: Tensor,
    num_offsets: int,
    num_heads: int,
) -> Tensor:
    """Attention of every query over the first ``num_offsets`` lattice offsets.

    Args:
        qkv: (B, N, 3 * C), tokens in Z-order on a square grid whose side is a power of two, 32 or more.
        rel_pos_h, rel_pos_w: (2 * side - 1, head_dim).
        perm, inv_perm: (N,) int32 the Z-order and its inverse.
        num_offsets: 1 to 64; 64 is dense attention.
        num_heads: number of heads.

    Returns:
        (B, N, C) in the dtype of ``qkv``.
    """
    batch, num_tokens, width = qkv.shape
    grid, channels = int(num_tokens**0.5), width // 3
    head_dim = channels // num_heads
    row_step, col_step = lattice_steps(num_offsets)
    terms = relative_terms(qkv, rel_pos_h, rel_pos_w, inv_perm, num_heads, grid, row_step, col_step)
    launch = launch_settings("stripe_attention.lattice", qkv.device, head_dim)
    constants = lattice_constants(grid, head_dim, launch.block)
    out = torch.empty(batch, num_tokens, channels, dtype=qkv.dtype, device=qkv.device)
    _lattice_attention[(num_tokens // constants["BLOCK_M"] * batch * num_heads,)](
        qkv,
        terms,
        perm,
        out,
        num_heads,
        num_offsets,
        row_step,
        col_step,
        head_dim**-0.5 * LOG2_E,
        **constants,
        PRECISION=precision(qkv),
        **launch.options,
    )
    return out


def lattice_constants(grid: int, head_dim: int, block: int) -> dict[str, int]:
    """What `_lattice_attention` is compiled for."""
    return {
        "GRID": grid,
        **head_parts(head_dim),
        "BLOCK_M": block,
        "BLOCK_N": min(64, grid**2 // PATCH**2),
    }


def lattice_steps(num_offsets: int) -> tuple[int, int]:
    """Row and column step of the smallest regular sub-grid that holds the first ``num_offsets`` offsets."""
    bits = (num_offsets - 1).bit_length()
    return PATCH >> ((bits + 1) // 2), PATCH >> (bits // 2)
