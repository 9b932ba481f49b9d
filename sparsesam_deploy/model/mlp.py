"""One block's MLP half: dense, or routed so that only part of the rows go through fc1 and fc2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn

from ..ops.backend import Backend
from ..ops.geometry import GROUP, SQUARE
from ..ops.routed_mlp import Route, group_scores, group_variance, routed_mlp_pack, routed_mlp_unpack
from ..ops.routing import ROUTING_RULES
from . import order
from .attention import GLOBAL_RANKING, ImageState
from .config import BlockPlan, Gelu, SparsityConfig
from .ranking import group_rank_tokens


class DenseMlp(nn.Module):
    """x + MLP(norm2(x)); shares its parameters with segment_anything's block."""

    mlp_rows = 1.0
    """Share of token rows that go through fc1 and fc2."""

    def __init__(self, norm: nn.LayerNorm, mlp: MLPBlock, gelu: Gelu) -> None:
        super().__init__()
        self.norm, self.lin1, self.lin2 = norm, mlp.lin1, mlp.lin2
        self.approximate = "none" if gelu == "erf" else "tanh"

    def project(self, rows: Tensor) -> Tensor:
        return self.lin2(F.gelu(self.lin1(rows), approximate=self.approximate))

    def forward(self, x: Tensor, state: ImageState) -> Tensor:
        """Z-ordered stream (B, N, C) -> (B, N, C)."""
        return x + self.project(self.norm(x))


class RoutedMlp(DenseMlp):
    """The MLP on ``mlp_density * N`` packed rows; ``backend`` packs and unpacks them.

    ``share-quadtree`` is this project's own: `Route` says what it is.

    Raises:
        DensityError: ``mlp_density`` leaves nothing to compute.
    """

    perm: Tensor
    """With ``inv_perm`` of ``sobel``, as ``static_indices`` of tokens that no ranking gives."""
    inv_perm: Tensor
    static_indices: Tensor

    def __init__(
        self,
        norm: nn.LayerNorm,
        mlp: MLPBlock,
        gelu: Gelu,
        plan: BlockPlan,
        sparsity: SparsityConfig,
        backend: Backend,
    ) -> None:
        super().__init__(norm, mlp, gelu)
        self.backend = backend
        self.decision_name = f"row_of_token_block_{plan.index:02d}"
        self.rule = ROUTING_RULES[sparsity.routing]
        self.selection, self.share = self.rule.selection, self.rule.share
        self.counts = self.rule.counts(plan.mlp_density, plan.num_tokens)
        given = self.selection == "given"
        route = Route.of(self.rule, self.counts)
        self.num_rows = self.counts.num_given if given else route.num_rows(plan.num_tokens)
        self.mlp_rows = self.num_rows / plan.num_tokens
        self.num_own_rows = self.counts.num_groups * GROUP if self.share else self.num_rows
        tables = {}
        if self.selection == "sobel":
            perm = order.z_order(plan.grid_size)
            tables = {"perm": perm, "inv_perm": order.inverse(perm)}
        elif given and not self.rule.by_ranking:
            tables = {"static_indices": order.lattice_sequence(plan.num_tokens)[None, : self.num_rows]}
        for name, table in tables.items():
            self.register_buffer(name, torch.tensor(table), persistent=False)

    def keep_indices(self, state: ImageState) -> Tensor:
        """The tokens to compute where no score of this block decides: (B or 1, num_rows) int32."""
        if self.rule.by_ranking:
            return group_rank_tokens(state.decisions[GLOBAL_RANKING], self.num_rows)
        return self.static_indices

    def route(self, state: ImageState) -> Route:
        """How this block chooses its rows."""
        tables = {}
        if self.selection == "given":
            tables = {"keep_indices": self.keep_indices(state)}
        elif self.selection == "sobel":
            tables = {"perm": self.perm, "inv_perm": self.inv_perm}
        return Route.of(self.rule, self.counts, **tables)

    def forward(self, x: Tensor, state: ImageState) -> Tensor:
        if (row_of_token := state.decisions.get(self.decision_name)) is not None:
            row_of_token = row_of_token.clamp(0, self.num_rows)  # what a broken graph decided is judged elsewhere
            rows = mean_rows(self.norm(x), row_of_token, self.num_rows)
        else:
            norm = self.norm
            route = self.route(state)
            rows, row_of_token = routed_mlp_pack(x, norm.weight, norm.bias, norm.eps, route, self.backend)
            state.decisions[self.decision_name] = row_of_token
        return routed_mlp_unpack(x, self.project(rows), row_of_token, self.backend)

    def token_scores(self, x: Tensor, state: ImageState) -> Tensor:
        """What tokens are chosen by, (B, N), highest first: their group's score, or 1 for those that are given."""
        if self.selection == "given":
            kept = self.keep_indices(state).long().expand(x.shape[0], -1)
            return x.new_zeros(x.shape[:2]).scatter(1, kept, 1.0)
        route = self.route(state)
        scores = group_scores(self.selection, x, self.norm(x), route.perm, route.inv_perm)
        return scores.repeat_interleave(GROUP, 1)

    def square_scores(self, x: Tensor) -> Tensor:
        """What ``share-quadtree`` merges 4x4 squares by, (B, N / 16), lowest first."""
        return group_variance(self.norm(x), SQUARE)


def mean_rows(y: Tensor, row_of_token: Tensor, num_rows: int) -> Tensor:
    """What each row stands for, by a decision already made: the mean of its tokens of y.

    Args:
        y: (B, N, C) tokens.
        row_of_token: (B, N) int32; ``num_rows`` for tokens without a row.

    Returns:
        (B, num_rows, C).
    """
    index = row_of_token.long().clamp(0, num_rows)
    sums = y.new_zeros(y.shape[0], num_rows + 1, y.shape[2]).scatter_add_(1, index.unsqueeze(2).expand_as(y), y)
    counts = y.new_zeros(y.shape[0], num_rows + 1).scatter_add_(1, index, torch.ones_like(index, dtype=y.dtype))
    return (sums / counts.unsqueeze(2))[:, :num_rows]
