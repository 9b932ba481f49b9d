"""Attention of every query over a fixed stripe of keys, with SAM's decomposed relative-position bias."""

from .reference import Stripe, stripe_attention

__all__ = ["Stripe", "stripe_attention"]
