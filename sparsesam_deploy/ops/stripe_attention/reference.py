"""``sparsesam::stripe_attention`` in plain torch, the definition that every other implementation is held against."""

from __future__ import annotations

import torch
from torch import Tensor

from .onnx import symbolic_stripe_attention
from .stripe import Stripe


def stripe_attention(
    qkv: Tensor, qkv_bias: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, stripe: Stripe, num_heads: int
) -> Tensor:
    """Attend over the stripe, the own tile where ``stripe`` has tiles, and nothing else.

    Args:
        qkv: (B, N, 3 * C) output of the qkv linear layer, tokens in Z-order, any float dtype.
        qkv_bias: (3 * C,) bias of that layer: what a padded window slot holds.
        rel_pos_h, rel_pos_w: (2 * S - 1, head_dim) SAM's tables; they see the unscaled query.
        stripe: the index tables of this block.
        num_heads: number of heads; head_dim = C / num_heads.

    Returns:
        (B, N, C) attention output in the dtype of ``qkv``; the arithmetic is float32.
    """
    if torch.onnx.is_in_onnx_export():
        return symbolic_stripe_attention(qkv, qkv_bias, rel_pos_h, rel_pos_w, stripe, num_heads)
    tables = (
        stripe.perm,
        stripe.inv_perm,
        stripe.keys,
        stripe.tiles,
        stripe.tile_in_stripe,
        stripe.members,
        stripe.slots,
    )
    return torch.ops.sparsesam.stripe_attention(
        qkv, qkv_bias, rel_pos_h, rel_pos_w, stripe.rel_index, *tables, num_heads
    )


@torch.library.custom_op("sparsesam::stripe_attention", mutates_args=())
def _stripe_attention(
    qkv: Tensor,
    qkv_bias: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    rel_index: Tensor,
    perm: Tensor | None,
    inv_perm: Tensor | None,
    keys: Tensor | None,
    tiles: Tensor | None,
    tile_in_stripe: Tensor | None,
    members: Tensor | None,
    slots: Tensor | None,
    num_heads: int,
) -> Tensor:
    x = qkv.float()
    batch, _, channels = x.shape
    if members is not None:
        padding = qkv_bias.float().expand(batch, 1, channels)
        x = torch.cat((x, padding), 1)[:, members].reshape(-1, members.shape[1], channels)
    q, k, v = x.view(*x.shape[:2], 3, num_heads, -1).permute(2, 0, 3, 1, 4)
    grid = rel_index.shape[0]
    rel_h, rel_w = (
        _relative_terms(q, table.float()[rel_index], perm, inv_perm, axis)
        for axis, table in enumerate((rel_pos_h, rel_pos_w))
    )
    slot = torch.arange(q.shape[2], device=q.device) if perm is None else perm
    row, col = slot // grid, slot % grid

    q = q * q.shape[-1] ** -0.5
    if keys is None:  # in raster order the bias is an outer sum: no gather of a score-sized tensor
        k, v = (k, v) if inv_perm is None else (k.index_select(2, inv_perm), v.index_select(2, inv_perm))
        scores = (q @ k.transpose(2, 3)).unflatten(3, (grid, grid))
        out = scores.add_(rel_h.unsqueeze(4)).add_(rel_w.unsqueeze(3)).flatten(3).softmax(3) @ v
    else:
        # The bias is one entry of rel_h and one of rel_w for each key: a product with one-hot rows beats the gather.
        one_hot = torch.eye(grid, dtype=q.dtype, device=q.device)
        key_terms = [_take(k, keys, 2)]
        key_terms += [one_hot[coordinate[keys]].expand(*key_terms[0].shape[:3], grid) for coordinate in (row, col)]
        scores = torch.cat((q, rel_h, rel_w), 3) @ torch.cat(key_terms, 3).transpose(2, 3)
        if tiles is None:
            out = scores.softmax(3) @ _take(v, keys, 2)
        else:
            assert tile_in_stripe is not None
            out = _with_own_tile(q, k, v, scores, _take(v, keys, 2), rel_h, rel_w, row, col, tiles, tile_in_stripe)
    out = out.transpose(1, 2).flatten(2)
    if members is not None:
        out = out.reshape(batch, -1, out.shape[-1])[:, slots]
    return out.to(qkv.dtype).contiguous()


@_stripe_attention.register_fake
def _(qkv: Tensor, *args: Tensor | int | None) -> Tensor:
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)


def _take(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """Select along ``dim`` of (B, H, rows, cols) by a shared (M,) index, or by a (B, H, M) one for each head."""
    if index.dim() == 1:
        return x.index_select(dim, index)
    index = index.long().unsqueeze(2 if dim == 3 else 3)
    shape = (*x.shape[:2], x.shape[2], index.shape[3]) if dim == 3 else (*x.shape[:2], index.shape[2], x.shape[3])
    return x.gather(dim, index.expand(shape))


def _relative_terms(q: Tensor, table: Tensor, perm: Tensor | None, inv_perm: Tensor | None, axis: int) -> Tensor:
    """Per-query bias terms q . R[q_coordinate - k_coordinate] along one grid axis: (B, H, L, hd) -> (B, H, L, S)."""
    grid = table.shape[0]
    raster = q if inv_perm is None else q.index_select(2, inv_perm)
    raster = raster.unflatten(2, (grid, grid))
    terms = torch.einsum("bnhwc,hkc->bnhwk" if axis == 0 else "bnhwc,wkc->bnhwk", raster, table).flatten(2, 3)
    return terms if perm is None else terms.index_select(2, perm)


def _with_own_tile(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scores: Tensor,
    v_stripe: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    row: Tensor,
    col: Tensor,
    tiles: Tensor,
    tile_in_stripe: Tensor,
) -> Tensor:
    """Softmax over the stripe and the query's own tile together, keys that are in both counted once."""
    shape = (*q.shape[:2], *tiles.shape[-2:])
    order = tiles.flatten(-2)

    def by_tile(x: Tensor) -> Tensor:
        return _take(x, order, 2).view(*shape, x.shape[-1])

    own = by_tile(q) @ by_tile(k).transpose(3, 4)
    for terms, coordinate in ((rel_h, row), (rel_w, col)):
        own += by_tile(terms).gather(4, coordinate[tiles].long().unsqueeze(-2).expand_as(own))
    own.masked_fill_(tile_in_stripe.bool().unsqueeze(1), float("-inf"))
    shared = by_tile(scores)
    weights = torch.cat((shared, own), 4).softmax(4)
    shared, own = weights.split((shared.shape[4], own.shape[4]), 4)
    out = (own @ by_tile(v)).flatten(2, 3) + shared.flatten(2, 3) @ v_stripe
    index = order.long().expand(out.shape[:3]).unsqueeze(3).expand_as(out)
    return torch.zeros_like(out).scatter(2, index, out)
