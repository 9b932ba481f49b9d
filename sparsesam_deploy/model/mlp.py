"""One block's MLP half: dense, or routed so that only part of the rows go through fc1 and fc2."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn

from ..ops.routed_mlp import Route, routed_mlp_pack, routed_mlp_unpack
from . import density, order
from .attention import NUM_TOKENS, ImageState
from .config import GRID_SIZE, SparsityConfig
from .ranking import group_rank_tokens

Gelu = Literal["erf", "tanh"]


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
    """The MLP on ``mlp_density * N`` packed rows (algorithm.md section 4)."""

    def __init__(
        self, norm: nn.LayerNorm, mlp: MLPBlock, gelu: Gelu, mlp_density: float, sparsity: SparsityConfig
    ) -> None:
        super().__init__(norm, mlp, gelu)
        family, _, score = sparsity.routing.partition("-")
        self.share, self.by_group_rank = family == "share", score == "group-rank"
        self.selection = score if score in ("variance", "sobel") else "given"
        if self.share:
            self.num_groups = density.shared_mlp_groups(mlp_density, NUM_TOKENS)
            self.num_rows = self.num_groups * order.GROUP + NUM_TOKENS // order.GROUP - self.num_groups
        else:
            self.num_rows = density.kept_tokens(mlp_density, NUM_TOKENS, whole_groups=score == "sobel")
            self.num_groups = self.num_rows // order.GROUP if score == "sobel" else 0
        self.mlp_rows = self.num_rows / NUM_TOKENS
        tables = {}
        if score == "sobel":
            tables = {"perm": order.z_order(GRID_SIZE), "inv_perm": order.inverse(order.z_order(GRID_SIZE))}
        elif score == "static":
            tables = {"keep_indices": order.lattice_sequence(NUM_TOKENS)[None, : self.num_rows]}
        self.table_names = tuple(tables)
        for name, table in tables.items():
            self.register_buffer(name, torch.tensor(table), persistent=False)

    def select(self, x: Tensor, state: ImageState) -> tuple[Tensor, Tensor]:
        """Packed rows of norm2(x), (B, num_rows, C), and the row of each token, (B, N) int32: `routed_mlp_pack`."""
        tables = {name: getattr(self, name) for name in self.table_names}
        if self.by_group_rank:
            tables["keep_indices"] = group_rank_tokens(state.rankings[False], self.num_rows)
        route = Route(self.selection, self.share, self.num_groups, **tables)
        return routed_mlp_pack(x, self.norm.weight, self.norm.bias, self.norm.eps, route)

    def computed_in_full(self, x: Tensor, state: ImageState) -> Tensor:
        """Which tokens have a row of their own: (B, N) bool."""
        own_rows = self.num_groups * order.GROUP if self.share else self.num_rows
        return self.select(x, state)[1] < own_rows

    def forward(self, x: Tensor, state: ImageState) -> Tensor:
        rows, row_of_token = self.select(x, state)
        return routed_mlp_unpack(x, self.project(rows), row_of_token)
