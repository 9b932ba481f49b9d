"""What a block decides by the image, a ranking of groups or a routing of tokens, and how wrong that is.

Rounding decides between candidates of almost equal score, and either choice is right. Therefore the error of a decision
is how much lower the scores of its choice are than the best scores (docs/proof.md has an example).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..model.attention import ImageState
from ..model.encoder import SparseBlock, SparseSamEncoder
from ..model.mlp import RoutedMlp
from ..model.ranking import group_scores
from ..model.shared_attention import SharedAttention
from ..ops.geometry import GROUP, SQUARE
from .metrics import relative_l2

TINY = 1e-30


def decisions(reference: SparseSamEncoder, outputs: Mapping[str, np.ndarray]) -> ImageState:
    """What the graph decided, as far as ``outputs`` have it, for the reference to follow."""
    names = [name for name in reference.decision_names if name in outputs]
    return ImageState({name: torch.from_numpy(outputs[name]).int() for name in names})


def decided_alike(block: SparseBlock, one: ImageState, other: ImageState) -> bool:
    """Whether the block computes the same by both decisions, however these number its rows."""
    num_rows = {half.decision_name: half.num_rows for half in block.routed_halves}
    for name in block.decision_names:
        first, second = one.decisions[name], other.decisions[name]
        if name in num_rows:
            first, second = (first_fellows(rows, num_rows[name]) for rows in (first, second))
        if not torch.equal(first, second):
            return False
    return True


def first_fellows(row_of_token: torch.Tensor, num_rows: int) -> torch.Tensor:
    """The first token of each token's row, (B, N) int64; N for tokens without a row.

    Args:
        row_of_token: (B, N) int32, ``num_rows`` for tokens without a row; others outside count as the nearest row.
    """
    index = row_of_token.long().clamp(0, num_rows)
    tokens = torch.arange(index.shape[1]).expand_as(index)
    first = torch.full((index.shape[0], num_rows + 1), index.shape[1]).scatter_reduce(1, index, tokens, "amin")
    first[:, num_rows] = index.shape[1]
    return first.gather(1, index)


def ranking_error(spread: torch.Tensor, similarity: torch.Tensor, ranking: torch.Tensor) -> float:
    """Relative L2 error of the scores in ranked order, in the worst ranking; infinite if a group is missing.

    Scores are relative to the deviation of the statistics they are made of, and magnify rounding where these hardly
    vary: in an empty window all is rounding. So an error counts as much as the statistics themselves vary.

    Args:
        spread, similarity, ranking: (B, H, G) the statistics of each group, and the groups best first.
    """
    if (ranking.sort().values != torch.arange(ranking.shape[-1])).any():
        return float("inf")
    scores = group_scores(spread.double(), similarity.double())
    best = scores.sort(descending=True).values
    errors = (scores.gather(-1, ranking.long()) - best).norm(dim=-1) / best.norm(dim=-1).clamp_min(TINY)
    variation = torch.minimum(spread.std(-1) / spread.mean(-1).clamp_min(TINY), similarity.std(-1)).clamp_max(1)
    return float((errors * variation).max())


def routing_error(
    scores: torch.Tensor,
    row_of_token: torch.Tensor,
    half: RoutedMlp | SharedAttention,
    square_scores: torch.Tensor | None = None,
) -> float:
    """Relative L2 error of the scores of the tokens with a row of their own, best first.

    Where 4x4 squares are merged, these tokens are compared with the best of the others, and the merged squares' scores
    with the lowest ones; the larger error counts.

    Infinite if rows are not given out as they must be: one to each of those tokens, then (``share``) one to each other
    group, then one to each merged square, and none to the rest.

    Args:
        scores, row_of_token: (N,), Z-ordered.
        square_scores: (N / 16,), needed where squares are merged.
    """
    own, rows, merged, num_tokens = half.num_own_rows, half.num_rows, half.counts.num_merged, len(scores)
    flat = rows - own - merged
    tokens = torch.tensor(
        [1] * own + [GROUP] * flat + [SQUARE] * merged + [num_tokens - own - GROUP * flat - SQUARE * merged]
    )
    if not torch.equal(row_of_token.sort().values, torch.arange(rows + 1).repeat_interleave(tokens).int()):
        return float("inf")
    if half.share and not shared_alike(row_of_token, GROUP, own):
        return float("inf")
    if not merged:
        return choice_error(scores[row_of_token < own], scores)
    if not shared_alike(row_of_token, SQUARE, own + flat):
        return float("inf")
    is_merged = row_of_token >= own + flat
    assert square_scores is not None
    detailed = choice_error(scores[row_of_token < own], scores[~is_merged])
    return max(detailed, choice_error(square_scores[is_merged[::SQUARE]], square_scores, lowest=True))


def shared_alike(row_of_token: torch.Tensor, size: int, first: int) -> bool:
    """Whether all ``size`` tokens of a group have the same row wherever one has a row from ``first`` on."""
    groups = row_of_token.unflatten(0, (-1, size))
    shared = groups[(groups >= first).any(1)]
    return bool((shared == shared[:, :1]).all())


def choice_error(chosen: torch.Tensor, scores: torch.Tensor, lowest: bool = False) -> float:
    """Relative L2 error of the ``chosen`` of ``scores``, both sorted, as the highest (or the lowest) of them."""
    best = scores.sort(descending=not lowest).values[: len(chosen)]
    return relative_l2(chosen.sort(descending=not lowest).values.numpy(), best.numpy())
