"""``sparsesam::routed_mlp_pack`` and ``routed_mlp_unpack`` in plain torch.

The cut leaves fc1, GELU and fc2 outside, where TensorRT keeps its own matrix products: pack makes the
``mlp_density * N`` rows that go through them, unpack gives each row's update to its token or to its four tokens.
``row_of_token`` is the only thing that passes between the two; nothing is ever scattered.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import GROUP, SQUARE
from ..routing import Route, Selection
from .onnx import symbolic_pack, symbolic_unpack


def routed_mlp_pack(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, route: Route) -> tuple[Tensor, Tensor]:
    """Normalise, score, select and pack the rows that go through the MLP.

    Args:
        x: (B, N, C) residual stream in Z-order, so that a 2x2 group is four consecutive rows and a 4x4 square
            sixteen; any float dtype.
        weight, bias, epsilon: the norm: norm2, or norm1 of a shared attention; its statistics are float32.
        route: how rows are chosen.

    Returns:
        rows (B, R, C) in the dtype of ``x``: the selected tokens of norm(x), then (``share``) one mean row for each
        other group, then (``quadtree``) one for each merged square, all by descending score; row_of_token (B, N) int32:
        the row whose update each token receives, R for none.
    """
    if torch.onnx.is_in_onnx_export():
        return symbolic_pack(x, weight, bias, epsilon, route)
    tables = (route.perm, route.inv_perm, route.keep_indices)
    return torch.ops.sparsesam.routed_mlp_pack(
        x, weight, bias, *tables, epsilon, route.selection, route.share, route.num_groups, route.num_merged
    )


def routed_mlp_unpack(x: Tensor, update: Tensor, row_of_token: Tensor) -> Tensor:
    """Add to each token the update of its row: (B, N, C), (B, R, C), (B, N) int32 -> (B, N, C)."""
    if torch.onnx.is_in_onnx_export():
        return symbolic_unpack(x, update, row_of_token)
    return torch.ops.sparsesam.routed_mlp_unpack(x, update, row_of_token)


def sobel_energy(x: Tensor, inv_perm: Tensor) -> Tensor:
    """Gradient magnitude of token features (SparseSAM eq. 1): (B, N, C) Z-ordered -> (B, N) in raster order.

    3x3 Sobel with zero padding, root mean square over channels, float32.
    """
    grid = int(inv_perm.numel() ** 0.5)
    image = x.float()[:, inv_perm].transpose(1, 2).unflatten(2, (grid, grid))
    across = F.pad(image, (1, 1, 1, 1))
    smooth_rows = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    smooth_cols = across[..., :-2] + 2 * across[..., 1:-1] + across[..., 2:]
    grad_x = smooth_rows[..., 2:] - smooth_rows[..., :-2]
    grad_y = smooth_cols[..., 2:, :] - smooth_cols[..., :-2, :]
    return (grad_x.square() + grad_y.square()).mean(1).sqrt().flatten(1)


def group_variance(y: Tensor, size: int = GROUP) -> Tensor:
    """Squared deviations of a group's rows of norm(x) from their mean, summed: (B, N, C) -> (B, N / size)."""
    groups = y.unflatten(1, (-1, size))
    return (groups - groups.mean(2, keepdim=True)).square().sum((2, 3))


def group_sobel(x: Tensor, perm: Tensor, inv_perm: Tensor) -> Tensor:
    """Mean `sobel_energy` of each group: (B, N, C) Z-ordered -> (B, N / 4)."""
    return sobel_energy(x, inv_perm)[:, perm].unflatten(1, (-1, GROUP)).mean(2)


def group_scores(selection: str, x: Tensor, y: Tensor, perm: Tensor | None, inv_perm: Tensor | None) -> Tensor:
    """What a selection ranks groups by, highest first: stream and its norm, (B, N, C) both -> (B, N / 4)."""
    if selection == "sobel":
        assert perm is not None and inv_perm is not None
        return group_sobel(x, perm, inv_perm)
    return group_variance(y)


@torch.library.custom_op("sparsesam::routed_mlp_pack", mutates_args=())
def _routed_mlp_pack(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    perm: Tensor | None,
    inv_perm: Tensor | None,
    keep_indices: Tensor | None,
    epsilon: float,
    selection: str,
    share: bool,
    num_groups: int,
    num_merged: int,
) -> tuple[Tensor, Tensor]:
    batch, num_tokens, channels = x.shape
    y = F.layer_norm(x.float(), (channels,), weight.float(), bias.float(), epsilon)
    if selection == "given":
        assert keep_indices is not None
        kept = keep_indices.long().expand(batch, -1)
        row_of_token = torch.full((batch, num_tokens), kept.shape[1], dtype=torch.int32, device=x.device)
        rank = torch.arange(kept.shape[1], dtype=torch.int32, device=x.device).expand(batch, -1)
        rows = y.gather(1, kept.unsqueeze(2).expand(-1, -1, channels))
        return rows.to(x.dtype), row_of_token.scatter(1, kept, rank)

    groups = y.view(batch, -1, GROUP, channels)
    mean = groups.mean(2)
    score = group_scores(selection, x, y, perm, inv_perm)
    if selection == "quadtree":
        squares = y.view(batch, -1, SQUARE, channels)
        num_whole = squares.shape[1] - num_merged
        square_order, square_rank = _ranked(group_variance(y, SQUARE))
        merged = (square_rank >= num_whole).repeat_interleave(GROUP, 1)
        score = score.masked_fill(merged, -1)  # last, since a variance is not negative
    order, rank = _ranked(score)
    selected = order[:, :num_groups, None, None].expand(-1, -1, GROUP, channels)
    rows = groups.gather(1, selected).flatten(1, 2)
    num_full = GROUP * num_groups
    if share:
        flat = order[:, num_groups : order.shape[1] - GROUP * num_merged, None].expand(-1, -1, channels)
        rows = torch.cat((rows, mean.gather(1, flat)), 1)
        other = (num_full + rank - num_groups).unsqueeze(2)
    else:
        other = torch.full_like(rank, num_full).unsqueeze(2)
    if selection == "quadtree":
        least = square_order[:, num_whole:, None].expand(-1, -1, channels)
        merged_row = rows.shape[1] + (square_rank - num_whole).repeat_interleave(GROUP, 1)
        rows = torch.cat((rows, squares.mean(2).gather(1, least)), 1)
        other = torch.where(merged.unsqueeze(2), merged_row.unsqueeze(2), other)
    member = torch.arange(GROUP, device=x.device)
    row_of_token = torch.where(rank.unsqueeze(2) < num_groups, GROUP * rank.unsqueeze(2) + member, other)
    return rows.to(x.dtype), row_of_token.flatten(1).to(torch.int32)


def _ranked(score: Tensor) -> tuple[Tensor, Tensor]:
    """Indices by descending score, equal scores by index, and the place of each in that order: (B, G) int64 both."""
    order = score.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=score.device).expand_as(order)
    return order, torch.empty_like(order).scatter(1, order, places)


@_routed_mlp_pack.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    perm: Tensor | None,
    inv_perm: Tensor | None,
    keep_indices: Tensor | None,
    epsilon: float,
    selection: Selection,
    share: bool,
    num_groups: int,
    num_merged: int,
) -> tuple[Tensor, Tensor]:
    batch, num_tokens, channels = x.shape
    num_rows = Route(selection, share, num_groups, num_merged, keep_indices=keep_indices).num_rows(num_tokens)
    return x.new_empty(batch, num_rows, channels), x.new_empty(batch, num_tokens, dtype=torch.int32)


@torch.library.custom_op("sparsesam::routed_mlp_unpack", mutates_args=())
def _routed_mlp_unpack(x: Tensor, update: Tensor, row_of_token: Tensor) -> Tensor:
    index = row_of_token.long().unsqueeze(2).expand_as(x)
    nothing = update.new_zeros(update.shape[0], 1, update.shape[2])
    return x + torch.cat((update, nothing), 1).gather(1, index)


@_routed_mlp_unpack.register_fake
def _(x: Tensor, update: Tensor, row_of_token: Tensor) -> Tensor:
    return torch.empty_like(x)
