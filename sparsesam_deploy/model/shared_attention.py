"""Windowed attention whose qkv and proj are computed on shared rows.

Flat 2x2 cells of norm1(x) share one row of qkv and one of proj; between the two every token attends, with its own place
in the window, to all tokens of the window. So no key stands for four, the position bias stays exact, padding needs no
rows, and attention is the operator of the dense block. Which cells are flat is decided over the whole image, as for a
shared MLP: with a quota for each window, late blocks at 0.5 lost twice as much on the held-out scenes.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

from ..ops.backend import Backend
from ..ops.geometry import GROUP
from ..ops.routed_mlp import Route, group_variance, routed_mlp_pack, routed_mlp_unpack
from ..ops.routing import Counts, shared_groups
from . import order
from .attention import BlockAttention, ImageState
from .config import BlockPlan, SparsityConfig
from .mlp import mean_rows


class SharedAttention(BlockAttention):
    """A windowed block's attention half on ``row_density * N`` packed rows; ``backend`` packs, attends and unpacks."""

    share = True
    """Unselected tokens share their group's row, as in `RoutedMlp`."""
    rank_of_row: Tensor

    def __init__(self, attention: Attention, plan: BlockPlan, sparsity: SparsityConfig, backend: Backend) -> None:
        super().__init__(attention, plan, sparsity, backend)
        self.decision_name = f"row_of_token_attention_{plan.index:02d}"
        self.num_groups = shared_groups(plan.row_density, plan.num_tokens, "windowed_density")
        self.counts = Counts(self.num_groups)
        self.num_own_rows = self.num_groups * GROUP
        self.num_rows = self.route().num_rows(plan.num_tokens)
        self.row_share = self.num_rows / plan.num_tokens
        ranks = order.rank_of_row(self.num_groups, plan.num_tokens // GROUP)
        self.register_buffer("rank_of_row", torch.tensor(ranks), persistent=False)

    def route(self) -> Route:
        """How this block chooses its rows."""
        return Route("variance", self.share, self.num_groups)

    def forward(self, x: Tensor, norm: nn.LayerNorm, state: ImageState) -> Tensor:
        """The whole half, residual included: Z-ordered stream (B, N, C) and norm1 -> (B, N, C)."""
        if (row_of_token := state.decisions.get(self.decision_name)) is not None:
            row_of_token = row_of_token.clamp(0, self.num_rows - 1)
            rows = mean_rows(norm(x), row_of_token, self.num_rows)
            out = self.over_stripe(take_rows(self.qkv(rows), row_of_token), state)
            update = self.proj(mean_rows(out, row_of_token, self.num_rows))
        else:
            rows, row_of_token = routed_mlp_pack(x, norm.weight, norm.bias, norm.eps, self.route(), self.backend)
            state.decisions[self.decision_name] = row_of_token
            out = self.over_stripe(take_rows(self.qkv(rows), row_of_token), state)
            update = self.proj(self.pool(out, row_of_token))
        return routed_mlp_unpack(x, update, row_of_token, self.backend)

    def pool(self, tokens: Tensor, row_of_token: Tensor) -> Tensor:
        """The mean over the tokens of each row, by what `routed_mlp_pack` decided: (B, N, C) -> (B, num_rows, C)."""
        groups = tokens.unflatten(1, (-1, GROUP))
        first = row_of_token[:, ::GROUP]
        rank = self.rank_of_row.index_select(0, first.flatten()).unflatten(0, tuple(first.shape)).long()
        numbers = torch.arange(rank.shape[1], dtype=torch.int32, device=rank.device).expand_as(rank)
        best_first = torch.zeros_like(numbers).scatter(1, rank, numbers)
        detailed, flat = best_first[:, : self.num_groups], best_first[:, self.num_groups :]
        rows = []
        if detailed.shape[1]:
            rows.append(take_rows(groups.flatten(2), detailed).unflatten(2, (GROUP, -1)).flatten(1, 2))
        if flat.shape[1]:
            rows.append(take_rows(groups.mean(2), flat))
        return torch.cat(rows, 1)

    def token_scores(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """What tokens are chosen by, (B, N), highest first: the score of their group."""
        return group_variance(norm(x)).repeat_interleave(GROUP, 1)


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Rows of each image by number, as one gather of whole rows: (B, R, C), (B, N) int32 -> (B, N, C)."""
    first = torch.arange(rows.shape[0], dtype=torch.int32, device=rows.device) * rows.shape[1]
    flat = (index + first.unsqueeze(1)).flatten()
    return rows.flatten(0, 1).index_select(0, flat).unflatten(0, tuple(index.shape))
