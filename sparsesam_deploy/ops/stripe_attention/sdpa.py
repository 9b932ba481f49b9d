"""``stripe_attention`` by torch's own fused attention, on any CPU or GPU: no kernel of ours, no Triton.

The position bias is part of the product, as channels: ``[scale * q | rel_h | rel_w] . [k | one-hot row | one-hot
column]``, so that scores need neither a mask nor memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InvalidInput
from .kernels.lattice import lattice_steps
from .onnx import symbolic_stripe_attention
from .stripe import Stripe

MOST_CHANNELS = 256
"""What fused attention takes on a GPU."""
ALIGNMENT = 8
"""Channels come in multiples of it, which is what fused attention takes on a GPU."""


def stripe_attention(
    qkv: Tensor, qkv_bias: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, stripe: Stripe, num_heads: int
) -> Tensor:
    """Attend over the stripe; see the reference.

    Products are of the inputs' type, and so are the position terms; in float32 the result is the reference's.

    Raises:
        InvalidInput: the stripe has tiles, or the channels are too many for fused attention.
    """
    if torch.onnx.is_in_onnx_export():
        return symbolic_stripe_attention(qkv, qkv_bias, rel_pos_h, rel_pos_w, stripe, num_heads)
    if stripe.tiles is not None:
        raise InvalidInput(
            "backend 'sdpa' computes no own tiles, which orders 'interleaved' and 'ranked' have in global blocks; use "
            "order 'lattice', or backend 'reference' or 'triton'."
        )
    grid, head_dim = stripe.rel_index.shape[0], qkv.shape[2] // 3 // num_heads
    row_step, col_step = (1, 1) if stripe.lattice_offsets is None else lattice_steps(stripe.lattice_offsets)
    rows, cols = (torch.arange(0, grid, step, device=qkv.device) for step in (row_step, col_step))
    channels = head_dim + len(rows) + len(cols)
    if channels > MOST_CHANNELS:
        raise InvalidInput(
            f"head_dim {head_dim} and {len(rows)} + {len(cols)} grid rows and columns make {channels} channels, and "
            f"backend 'sdpa' takes {MOST_CHANNELS}; use backend 'reference'."
        )
    q, k, v = _sequences(qkv, qkv_bias, stripe).unflatten(2, (3, num_heads, head_dim)).transpose(1, 3).unbind(2)
    q = q if stripe.inv_perm is None else q.index_select(2, stripe.inv_perm)
    k, v = (k, v) if stripe.keys is None else (_take(k, stripe.keys), _take(v, stripe.keys))
    raster = q.unflatten(2, (grid, grid))
    rel_h = torch.einsum("ndhwc,hkc->ndhwk", raster, rel_pos_h[stripe.rel_index[:, rows]]).flatten(2, 3)
    rel_w = torch.einsum("ndhwc,wkc->ndhwk", raster, rel_pos_w[stripe.rel_index[:, cols]]).flatten(2, 3)
    slots = torch.arange(grid * grid, device=qkv.device) if stripe.keys is None else stripe.keys
    position = (slots if stripe.perm is None else stripe.perm[slots]).unsqueeze(-1)
    one_hot = torch.cat((position // grid == rows, position % grid == cols), -1).to(k.dtype)
    out = F.scaled_dot_product_attention(
        _side_by_side(q * head_dim**-0.5, rel_h, rel_w),
        _side_by_side(k, one_hot.expand(*k.shape[:3], -1)),
        _side_by_side(v, v.new_zeros(()).expand(*v.shape[:3], channels - head_dim)),
        scale=1.0,
    )
    out = out[..., :head_dim].transpose(1, 2).flatten(2)
    if stripe.perm is not None:
        return out.index_select(1, stripe.perm)
    assert stripe.slots is not None
    return out.reshape(qkv.shape[0], -1, out.shape[2]).index_select(1, stripe.slots)


def _sequences(qkv: Tensor, qkv_bias: Tensor, stripe: Stripe) -> Tensor:
    """The stream itself, or its windows (B * num_windows, L, 3 * C), padding included."""
    if stripe.members is None:
        return qkv
    padded = torch.cat((qkv, qkv_bias.expand(qkv.shape[0], 1, -1)), 1)
    return padded.index_select(1, stripe.members.flatten()).unflatten(1, tuple(stripe.members.shape)).flatten(0, 1)


def _take(x: Tensor, keys: Tensor) -> Tensor:
    """Rows of (B, H, L, head_dim), by a shared (M,) index or by a (B, H, M) one."""
    if keys.dim() == 1:
        return x.index_select(2, keys)
    return x.gather(2, keys.long().unsqueeze(3).expand(-1, -1, -1, x.shape[3]))


def _side_by_side(*parts: Tensor) -> Tensor:
    """Channels one after the other, zeros behind them: fused attention wants q, k and v equally wide."""
    missing = -sum(part.shape[3] for part in parts) % ALIGNMENT
    return torch.cat((*parts, parts[0].new_zeros(()).expand(*parts[0].shape[:3], missing)), 3)
