"""Attention over keys that a table lists: any order, static or data-dependent, global or windowed, own tile or not.

The general path: positions come from index tables and the bias of every score from memory, so it is slower than the
lattice and window kernels. It computes exactly what the reference does, for any tables.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....errors import InvalidInput
from ...geometry import TILE
from ...launch import launch_settings
from ...triton_language import kernel, tl
from ..stripe import Stripe
from .relative_terms import LOG2_E, head_parts, precision, relative_terms
from .tile import accumulate, dot_keys, load_channels, pick_rows, store_channels


@kernel
def _listed_attention(
    qkv,
    qkv_bias,
    terms,
    perm,
    source,
    keys,
    tiles,
    tile_in_stripe,
    out,
    num_heads,
    num_sequences,
    num_tokens,
    num_keys,
    keys_stride,
    tiles_stride,
    scale,
    SIDE: tl.constexpr,
    HAS_PERM: tl.constexpr,
    WINDOWED: tl.constexpr,
    HAS_KEYS: tl.constexpr,
    HAS_TILES: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """BLOCK_M slots of one head of one sequence: consecutive ones, or those of one tile."""
    num_slots: tl.constexpr = SIDE * SIDE
    block = tl.program_id(0) % tl.cdiv(num_slots, BLOCK_M)
    table = tl.program_id(0) // tl.cdiv(num_slots, BLOCK_M)  # sequence by sequence, head by head
    head = table % num_heads
    sequence = table // num_heads
    head_dim: tl.constexpr = MAIN + REST
    channels = num_heads * head_dim
    token_stride = 3 * channels
    image = (sequence // num_sequences).to(tl.int64) * num_tokens
    q_base = qkv + image * token_stride + head * head_dim
    k_base = q_base + channels
    v_base = k_base + channels
    padding_k = qkv_bias + channels + head * head_dim
    padding_v = padding_k + channels
    source += (sequence % num_sequences) * num_slots
    keys += table * keys_stride
    tiles += table * tiles_stride

    place = block * BLOCK_M + tl.arange(0, BLOCK_M)
    exists = place < num_slots
    slot = tl.minimum(place, num_slots - 1)
    if HAS_TILES:
        slot = tl.load(tiles + slot)
    query = slot
    if WINDOWED:
        query = tl.load(source + slot)
    real = exists & (query < num_tokens)
    q, q_rest = load_channels(q_base + query * token_stride, MAIN, REST, real)
    raster = slot
    if HAS_PERM:
        raster = tl.load(perm + slot)
    row_terms = terms + table.to(tl.int64) * (2 * SIDE * num_slots) + raster
    col_terms = row_terms - raster + SIDE * num_slots + (raster % SIDE) * SIDE + raster // SIDE

    peak = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, MAIN), tl.float32)
    acc_rest = tl.zeros((BLOCK_M, REST if REST > 0 else 16), tl.float32)
    for first in range(0, num_keys + (BLOCK_M if HAS_TILES else 0), BLOCK_N):
        listed = first + tl.arange(0, BLOCK_N)
        counted = listed < num_keys
        key = listed
        if HAS_KEYS:
            key = tl.load(keys + listed, mask=counted, other=0)
        if HAS_TILES:  # the tile's own slots follow the stripe
            own = block * BLOCK_M + listed - num_keys
            in_tile = (listed >= num_keys) & (listed < num_keys + BLOCK_M)
            key = tl.where(in_tile, tl.load(tiles + own, mask=in_tile, other=0), key)
            counted |= in_tile & (tl.load(tile_in_stripe + own, mask=in_tile, other=1) == 0)
        key = tl.minimum(key, num_slots - 1)
        key_raster = key
        if HAS_PERM:
            key_raster = tl.load(perm + key)
        key_rows = k_base + key * token_stride
        value_rows = v_base + key * token_stride
        if WINDOWED:
            position = tl.load(source + key)
            padded = position >= num_tokens
            key_rows = pick_rows(padded, padding_k, k_base + position * token_stride)
            value_rows = pick_rows(padded, padding_v, v_base + position * token_stride)
        score = dot_keys(q, q_rest, key_rows, MAIN, REST, PRECISION) * scale
        score += tl.load(row_terms[:, None] + (key_raster // SIDE)[None, :] * num_slots)
        score += tl.load(col_terms[:, None] + (key_raster % SIDE)[None, :] * num_slots)
        score = tl.where(counted[None, :], score, float("-inf"))
        peak, total, acc, acc_rest = accumulate(score, value_rows, peak, total, acc, acc_rest, MAIN, REST, PRECISION)
    rows = out + (image + query) * channels + head * head_dim
    store_channels(rows, acc / total[:, None], acc_rest / total[:, None], MAIN, REST, real)


def listed_attention(
    qkv: Tensor, qkv_bias: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, stripe: Stripe, num_heads: int
) -> Tensor:
    """`stripe_attention` for any `Stripe`, same arguments and result.

    Raises:
        InvalidInput: the tiles are not of 64 slots or do not fill the sequence.
    """
    batch, num_tokens, width = qkv.shape
    side = stripe.rel_index.shape[0]
    num_slots, head_dim = side**2, width // 3 // num_heads
    num_windows, source = (1, stripe.inv_perm) if stripe.members is None else (len(stripe.members), stripe.members)
    assert source is not None
    if stripe.tiles is not None and tuple(stripe.tiles.shape[-2:]) != (num_slots // TILE, TILE):
        raise InvalidInput(
            f"tiles of shape {tuple(stripe.tiles.shape)} do not split {num_slots} slots into tiles of {TILE}; "
            "use backend='reference'."
        )
    terms = relative_terms(qkv, rel_pos_h, rel_pos_w, source, num_heads, side)
    setting = "stripe_attention.listed" if stripe.tiles is None else "stripe_attention.listed_own_tile"
    launch = launch_settings(setting, qkv.device, head_dim)
    constants = listed_constants(stripe, head_dim, launch.block)
    keys, tiles = (None if table is None else table.contiguous() for table in (stripe.keys, stripe.tiles))
    out = torch.empty(batch, num_tokens, width // 3, dtype=qkv.dtype, device=qkv.device)
    unused = stripe.rel_index
    _listed_attention[(-(-num_slots // constants["BLOCK_M"]) * batch * num_windows * num_heads,)](
        qkv,
        qkv_bias,
        terms,
        unused if stripe.perm is None else stripe.perm,
        source,
        unused if keys is None else keys,
        unused if tiles is None else tiles,
        unused if tiles is None else stripe.tile_in_stripe,
        out,
        num_heads,
        num_windows,
        num_tokens,
        num_slots if keys is None else keys.shape[-1],
        0 if keys is None or keys.dim() == 1 else keys.shape[-1],
        0 if tiles is None or tiles.dim() == 2 else num_slots,
        head_dim**-0.5 * LOG2_E,
        **constants,
        PRECISION=precision(qkv),
        **launch.options,
    )
    return out


def listed_constants(stripe: Stripe, head_dim: int, block: int) -> dict[str, int]:
    """What `_listed_attention` is compiled for; a block of queries is one tile where they attend to their own."""
    return {
        "SIDE": stripe.rel_index.shape[0],
        "HAS_PERM": stripe.perm is not None,
        "WINDOWED": stripe.members is not None,
        "HAS_KEYS": stripe.keys is not None,
        "HAS_TILES": stripe.tiles is not None,
        **head_parts(head_dim),
        "BLOCK_M": block if stripe.tiles is None else TILE,
        "BLOCK_N": TILE // 2,  # the bias of a whole tile, loaded for every score, would spill registers
    }
