"""One block's attention over its stripe.

Every index table is a buffer of the module, so that it becomes a constant of the exported graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

from ..ops.backend import Backend
from ..ops.geometry import GRID_SIZE, TILE, WINDOW_SIZE
from ..ops.stripe_attention import Stripe, stripe_attention
from . import density, order
from .config import BlockPlan, SparsityConfig
from .ranking import group_scores, group_statistics, highest, ranked_sequence

GLOBAL_RANKING = "ranking_global"


@dataclass
class ImageState:
    """What one forward pass decides by the image; nothing outlives the call.

    A decision that is there already is followed and not made anew. So one encoder can be made to decide as another did.

    ``decisions`` holds, by name and as int32, the group ranking (B * num_windows, H, G) that the first block of a kind
    makes and later blocks reuse, and which row each token has (B, N) in each routed MLP and shared attention.
    """

    decisions: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class KeyTables:
    """Static part of a stripe: how many keys, which ones where the order fixes them, and the tiles of own-tile orders.

    ``lattice_offsets`` says how many offsets of the lattice the keys are, in a global block of that order or dense.
    """

    num_keys: int
    keys: np.ndarray | None = None
    tiles: np.ndarray | None = None
    tile_in_stripe: np.ndarray | None = None
    lattice_offsets: int | None = None


def key_tables(
    windowed: bool, attention_density: float, sparsity: SparsityConfig, grid_size: int = GRID_SIZE
) -> KeyTables:
    """The stripe of one block; dense (no tables) at density 1.

    A stripe is a prefix of the order's sequence: of lattice offsets (``lattice``), or of member 0 of every 2x2 group,
    then member 1 and so on (all windows and the other two orders, whose global blocks also attend to their own tile).
    """
    num_tokens = WINDOW_SIZE**2 if windowed else grid_size**2
    if attention_density == 1:
        return KeyTables(num_tokens, lattice_offsets=None if windowed else TILE)
    if windowed:
        sequence = order.interleave(order.window_groups(WINDOW_SIZE))
        num_keys = density.window_stripe_tokens(attention_density, num_tokens)
        return KeyTables(num_keys, sequence[:num_keys])
    if sparsity.order == "lattice":
        offsets = density.lattice_stripe_offsets(attention_density)
        num_keys = offsets * num_tokens // TILE
        return KeyTables(num_keys, order.lattice_sequence(num_tokens)[:num_keys], lattice_offsets=offsets)
    sequence = order.interleave(order.z_groups(num_tokens))
    tiles = sequence.reshape(-1, TILE)
    num_keys = density.sequence_stripe_tiles(attention_density, num_tokens) * TILE
    keys = sequence[:num_keys]
    return KeyTables(num_keys, keys, tiles, order.membership(tiles, keys))


class BlockAttention(nn.Module):
    """Multi-head attention of one block; shares its parameters with segment_anything's ``Attention``.

    ``backend`` is what computes `stripe_attention`.
    """

    row_share = 1.0
    """Share of token rows that go through qkv and proj."""
    groups: Tensor
    members: Tensor
    """Of windowed blocks."""

    def __init__(self, attention: Attention, plan: BlockPlan, sparsity: SparsityConfig, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        self.qkv, self.proj, self.num_heads = attention.qkv, attention.proj, attention.num_heads
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w
        self.windowed, self.makes_ranking = plan.windowed, plan.makes_ranking
        self.ranking_name = "ranking_windowed" if plan.windowed else GLOBAL_RANKING
        self.ranked = sparsity.order == "ranked" and plan.key_density < 1
        self.static = key_tables(plan.windowed, plan.key_density, sparsity, plan.grid_size)
        tables: dict[str, np.ndarray | None]
        if plan.windowed:
            members, slots = order.windows(plan.grid_size, WINDOW_SIZE)
            groups, self.num_tokens = order.window_groups(WINDOW_SIZE), WINDOW_SIZE**2
            tables = {"rel_index": order.relative_index(WINDOW_SIZE), "members": members, "slots": slots}
        else:
            perm = order.z_order(plan.grid_size)
            groups, self.num_tokens = order.z_groups(plan.num_tokens), plan.num_tokens
            tables = {"rel_index": order.relative_index(plan.grid_size), "perm": perm, "inv_perm": order.inverse(perm)}
        if not self.ranked:
            tables |= {"keys": self.static.keys, "tiles": self.static.tiles}
        tables |= {"tile_in_stripe": self.static.tile_in_stripe, "groups": groups}
        present = {name: table for name, table in tables.items() if table is not None}
        self.table_names = tuple(present)
        for name, table in present.items():
            self.register_buffer(name, torch.tensor(table, dtype=torch.int32), persistent=False)

    @property
    def effective_density(self) -> float:
        """(query, key) pairs computed / all pairs; a key in both stripe and tile counts once."""
        pairs = self.num_tokens * self.static.num_keys
        if self.static.tile_in_stripe is not None:
            pairs += TILE * int((self.static.tile_in_stripe == 0).sum())
        return pairs / self.num_tokens**2

    def over_stripe(self, qkv: Tensor, state: ImageState) -> Tensor:
        """What lies between the two linear layers: (B, N, 3 * C) -> (B, N, C)."""
        tables = {name: getattr(self, name) for name in self.table_names if name != "groups"}
        if self.makes_ranking and self.ranking_name not in state.decisions:
            state.decisions[self.ranking_name] = self.rank(qkv)
        if self.ranked:
            sequence = ranked_sequence(state.decisions[self.ranking_name], self.groups)
            tables["keys"] = sequence[..., : self.static.num_keys]
            if self.static.tiles is not None:
                tables["tiles"] = sequence.unflatten(-1, (-1, TILE))
        stripe = Stripe(**tables, lattice_offsets=self.static.lattice_offsets)
        parameters = self.qkv.bias, self.rel_pos_h, self.rel_pos_w
        return stripe_attention(qkv, *parameters, stripe, self.num_heads, self.backend)

    def rank(self, qkv: Tensor) -> Tensor:
        """The groups by their score, best first: (B * num_windows, H, G) int32."""
        return highest(group_scores(*self.group_statistics(qkv)), len(self.groups)).to(torch.int32)

    def group_statistics(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """Of this block's keys, padded window slots included: (B * num_windows, H, G) each, see `group_scores`."""
        keys = qkv.chunk(3, dim=2)[1]
        if self.windowed:
            padding = self.qkv.bias.chunk(3)[1].expand(keys.shape[0], 1, -1)
            keys = torch.cat((keys, padding), 1).index_select(1, self.members.flatten())
            keys = keys.unflatten(1, tuple(self.members.shape)).flatten(0, 1)
        return group_statistics(keys.unflatten(2, (self.num_heads, -1)).transpose(1, 2), self.groups)


class SparseAttention(BlockAttention):
    """A block's attention on all rows."""

    def forward(self, x: Tensor, state: ImageState) -> Tensor:
        """norm1 of the Z-ordered stream (B, N, C) -> update of the stream (B, N, C)."""
        return self.proj(self.over_stripe(self.qkv(x), state))
