"""The two halves around a routed MLP's matrix products: pack the rows worth computing, add their updates back."""

from .reference import Route, group_sobel, group_variance, routed_mlp_pack, routed_mlp_unpack

__all__ = ["Route", "group_sobel", "group_variance", "routed_mlp_pack", "routed_mlp_unpack"]
