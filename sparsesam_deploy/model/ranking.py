"""The ranking of 2x2 groups by the keys of an image, as the released SparseSAM code makes it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ZSCORE_EPSILON = 1e-6
MAX_TOP_K = 3840
"""TensorRT's limit on k of a TopK layer."""


def _zscore(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + ZSCORE_EPSILON)


def group_statistics(keys: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """How varied each group is and how like the others.

    Args:
        keys: (B, H, L, head_dim) the keys of one attention layer.
        groups: (G, 4) slots of each 2x2 group.

    Returns:
        Mean over channels of the deviation inside the group, and mean cosine similarity to the other groups' means:
        (B, H, G) float32 each.
    """
    members = keys.float().index_select(2, groups.flatten()).unflatten(2, tuple(groups.shape))
    spread = members.std(3).mean(-1)
    unit = F.normalize(members.mean(3), dim=-1)
    similarity = ((unit * unit.sum(2, keepdim=True)).sum(-1) - (unit * unit).sum(-1)) / (groups.shape[0] - 1)
    return spread, similarity


def group_scores(spread: Tensor, similarity: Tensor) -> Tensor:
    """What groups are ranked by, highest first, from their statistics (B, H, G)."""
    return _zscore(spread) + _zscore(-similarity)


def ranked_sequence(ranking: Tensor, groups: Tensor) -> Tensor:
    """Member 0 of every group in rank order, then member 1 and so on: (B, H, G) -> (B, H, L) slots, int32."""
    sequence = groups.index_select(0, ranking.flatten()).unflatten(0, tuple(ranking.shape))
    return sequence.transpose(-1, -2).flatten(-2)


def group_rank_tokens(ranking: Tensor, num_keep: int) -> Tensor:
    """The tokens with the lowest mean rank over heads (routing ``group-rank``).

    Args:
        ranking: (B, H, G) ranking of a Z-ordered global block.
        num_keep: how many tokens to keep.

    Returns:
        (B, num_keep) int32 stream positions.
    """
    places = torch.arange(ranking.shape[2], dtype=torch.int32, device=ranking.device).expand_as(ranking)
    place = torch.zeros_like(ranking).scatter(2, ranking.long(), places)
    mean_place = 4 * place.float().mean(1)
    position = (mean_place.unsqueeze(2) + torch.arange(4, device=ranking.device)).flatten(1)
    if num_keep <= MAX_TOP_K:
        return highest(-position, num_keep).to(torch.int32)
    return _all_but_highest(position, position.shape[1] - num_keep)


def highest(score: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` highest scores along the last axis, best first, ties by lower index: int64."""
    if torch.onnx.is_in_onnx_export():
        return score.topk(count).indices  # ONNX defines the tie as we do; torch's own topk leaves it open
    return score.argsort(dim=-1, descending=True, stable=True)[..., :count]


def _all_but_highest(score: Tensor, count: int) -> Tensor:
    """Indices of all but the ``count`` highest scores of (B, N), ascending, ties dropped from the end: int32.

    A sort-free way to keep more than ``MAX_TOP_K``: mark what goes, count what stays.
    """
    last = score.shape[1] - 1
    dropped = torch.zeros_like(score, dtype=torch.int32).scatter(1, last - highest(score.flip(1), count), 1)
    rank_kept = (1 - dropped).cumsum(1) - 1
    rank_dropped = score.shape[1] - count + dropped.cumsum(1) - 1
    place = torch.where(dropped == 1, rank_dropped, rank_kept)
    tokens = torch.arange(last + 1, dtype=torch.int32, device=score.device).expand(place.shape)
    return torch.zeros_like(tokens).scatter(1, place, tokens)[:, : last + 1 - count]
