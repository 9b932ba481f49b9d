"""Attention of every query over a fixed stripe of keys, with SAM's decomposed relative-position bias."""

from torch import Tensor

from ..backend import Backend
from . import reference, sdpa, triton
from .stripe import Stripe

__all__ = ["Stripe", "stripe_attention"]

IMPLEMENTATIONS = {
    "reference": reference.stripe_attention,
    "sdpa": sdpa.stripe_attention,
    "triton": triton.stripe_attention,
}


def stripe_attention(
    qkv: Tensor,
    qkv_bias: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    stripe: Stripe,
    num_heads: int,
    backend: Backend = "reference",
) -> Tensor:
    """Attend over the stripe; arguments as in `reference.stripe_attention`, errors as in the backend's."""
    return IMPLEMENTATIONS[backend](qkv, qkv_bias, rel_pos_h, rel_pos_w, stripe, num_heads)
