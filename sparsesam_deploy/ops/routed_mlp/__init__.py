"""The two halves around a routed MLP's matrix products: pack the rows worth computing, add their updates back."""

from torch import Tensor

from ..backend import Backend
from ..routing import Route
from . import reference, triton
from .reference import group_scores, group_sobel, group_variance

__all__ = ["Route", "group_scores", "group_sobel", "group_variance", "routed_mlp_pack", "routed_mlp_unpack"]

# Packing is gathers and a sort, for which torch has nothing better than the reference.
IMPLEMENTATIONS = {"reference": reference, "sdpa": reference, "triton": triton}


def routed_mlp_pack(
    x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, route: Route, backend: Backend = "reference"
) -> tuple[Tensor, Tensor]:
    """Rows to compute and each token's row; arguments as in `reference.routed_mlp_pack`, errors as in the backend's."""
    return IMPLEMENTATIONS[backend].routed_mlp_pack(x, weight, bias, epsilon, route)


def routed_mlp_unpack(x: Tensor, update: Tensor, row_of_token: Tensor, backend: Backend = "reference") -> Tensor:
    """Add each row's update to its tokens; arguments as in `reference.routed_mlp_unpack`."""
    return IMPLEMENTATIONS[backend].routed_mlp_unpack(x, update, row_of_token)
