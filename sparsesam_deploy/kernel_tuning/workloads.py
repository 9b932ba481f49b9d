"""What each GPU kernel is measured on: the shapes of a real encoder, random inputs, and the reference's answer.

Inputs are float16, the precision that encoders are run in. There is one set of them: the layer before has just written
them, so that in an encoder too they come from the cache as far as they fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..model import order
from ..model.attention import key_tables
from ..model.config import PRESETS, SamConfig, SparsityConfig
from ..model.ranking import ranked_sequence
from ..ops.geometry import GRID_SIZE, GROUP, SQUARE, TILE, WINDOW_SIZE
from ..ops.routed_mlp import Route, group_scores, group_variance, routed_mlp_pack, routed_mlp_unpack
from ..ops.routed_mlp.triton import KERNELS
from ..ops.routing import RoutingRule, Selection, rule_of
from ..ops.stripe_attention import Stripe, stripe_attention
from ..ops.stripe_attention.kernels.lattice import lattice_steps
from ..ops.stripe_attention.kernels.relative_terms import LOG2_E, relative_terms

DENSITY = 0.4
EPSILON = 1e-6
NEAR = 8
"""How far the number of selected groups may be from what the density stands for, see `clear_cut`."""


@dataclass(frozen=True)
class Workload:
    """One kernel's work on one encoder.

    Attributes:
        run: calls the operator that launches the kernel, and maybe others; what is timed.
        expected: the reference's float32 answer to the same inputs.
        answer: what is compared with it, from the result of ``run``.
    """

    run: Callable[[], Any]
    expected: Tensor
    answer: Callable[[Any], Tensor] = lambda result: result


def width_of(kernel: str, config: SamConfig) -> int:
    """The width that the launch table goes by: head_dim of an attention, embed_dim of a routed MLP."""
    return config.head_dim if kernel.startswith("stripe_attention.") else config.embed_dim


def _random(device: torch.device) -> Callable[..., Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator, device=device)


def _table(table: np.ndarray | None, device: torch.device) -> Tensor:
    assert table is not None
    return torch.tensor(table, dtype=torch.int32, device=device)


def global_tables(device: torch.device, grid_size: int = GRID_SIZE) -> dict[str, Tensor]:
    perm = order.z_order(grid_size)
    tables = {"rel_index": order.relative_index(grid_size), "perm": perm, "inv_perm": order.inverse(perm)}
    return {name: _table(table, device) for name, table in tables.items()}


def window_tables(device: torch.device, grid_size: int = GRID_SIZE) -> dict[str, Tensor]:
    members, slots = order.windows(grid_size, WINDOW_SIZE)
    tables = {"rel_index": order.relative_index(WINDOW_SIZE), "members": members, "slots": slots}
    return {name: _table(table, device) for name, table in tables.items()}


def _attention_inputs(
    config: SamConfig, device: torch.device, side: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """qkv, its bias, and position tables that matter as much as the products q . k."""
    random, width = _random(device), 3 * config.embed_dim
    rel_h, rel_w = (random(2 * side - 1, config.head_dim) / config.head_dim**0.5 for _ in "hw")
    return random(1, config.num_tokens, width).half(), random(width).half(), (rel_h.half(), rel_w.half())


def _attention(config: SamConfig, device: torch.device, stripe: Stripe) -> Workload:
    qkv, bias, (rel_h, rel_w) = _attention_inputs(config, device, len(stripe.rel_index))
    expected = stripe_attention(
        qkv.float(), bias.float(), rel_h.float(), rel_w.float(), stripe, config.num_heads, "reference"
    )
    return Workload(lambda: stripe_attention(qkv, bias, rel_h, rel_w, stripe, config.num_heads, "triton"), expected)


def _lattice(config: SamConfig, device: torch.device) -> Workload:
    """A global block of the ``default`` preset's order."""
    static = key_tables(False, DENSITY, SparsityConfig(), config.grid_size)
    stripe = Stripe(
        **global_tables(device, config.grid_size),
        keys=_table(static.keys, device),
        lattice_offsets=static.lattice_offsets,
    )
    return _attention(config, device, stripe)


def _window(config: SamConfig, device: torch.device) -> Workload:
    """A dense windowed block."""
    return _attention(config, device, Stripe(**window_tables(device, config.grid_size), lattice_offsets=None))


def _listed(config: SamConfig, device: torch.device, windowed: bool) -> Workload:
    """A block of the ``paper`` preset, each head with a ranking of its own; queries of a global one see their tile."""
    static = key_tables(windowed, DENSITY, PRESETS["paper"], config.grid_size)
    groups = order.window_groups(WINDOW_SIZE) if windowed else order.z_groups(config.num_tokens)
    tables = (window_tables if windowed else global_tables)(device, config.grid_size)
    num_sequences = len(tables["members"]) if windowed else 1
    ranking = _random(device)(num_sequences, config.num_heads, len(groups)).argsort(-1)
    sequence = ranked_sequence(ranking, _table(groups, device))
    stripe = Stripe(**tables, keys=sequence[..., : static.num_keys], lattice_offsets=None)
    if static.tiles is not None:
        own = {"tiles": sequence.unflatten(-1, (-1, TILE)), "tile_in_stripe": static.tile_in_stripe}
        stripe = replace(stripe, tiles=own["tiles"], tile_in_stripe=_table(own["tile_in_stripe"], device))
    return _attention(config, device, stripe)


def _relative_terms(config: SamConfig, device: torch.device) -> Workload:
    """The position terms of a lattice block."""
    grid_size = config.grid_size
    tables = global_tables(device, grid_size)
    qkv, _, rel_pos = _attention_inputs(config, device, grid_size)
    num_offsets = key_tables(False, DENSITY, SparsityConfig(), config.grid_size).lattice_offsets
    assert num_offsets is not None
    steps = lattice_steps(num_offsets)
    q = qkv[0, :, : config.embed_dim].float()[tables["inv_perm"]].view(grid_size, grid_size, config.num_heads, -1)
    by_key = [table.float()[tables["rel_index"]][:, ::step] for table, step in zip(rel_pos, steps, strict=True)]
    rows = torch.einsum("rchd,rkd->hkrc", q, by_key[0]).flatten(2)
    cols = torch.einsum("rchd,ckd->hkcr", q, by_key[1]).flatten(2)
    return Workload(
        lambda: relative_terms(qkv, *rel_pos, tables["inv_perm"], config.num_heads, grid_size, *steps),
        torch.cat((rows, cols), 1)[None] * LOG2_E,
    )


def residual_stream(config: SamConfig, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """A residual stream, some cells of which vary more than others, and the parameters of its norm."""
    random, channels, num_groups = _random(device), config.embed_dim, config.num_tokens // GROUP
    x = random(1, num_groups, 1, 1).exp() * random(1, num_groups, GROUP, channels)
    x = x.flatten(1, 2) + 3 * random(1, 1, channels)
    return x.half(), random(channels).half(), random(channels).half()


def route_of(rule: RoutingRule, stream: tuple[Tensor, Tensor, Tensor]) -> Route:
    """How rows are chosen at `DENSITY`, so that no rounding can change the choice, see `clear_cut`.

    It has the tables of all selections.
    """
    x, weight, bias = stream
    counts, grid_size = rule.counts(DENSITY, x.shape[1]), math.isqrt(x.shape[1])
    given = _table(order.lattice_sequence(x.shape[1])[None, : counts.num_given], x.device)
    perm, inv_perm = (global_tables(x.device, grid_size)[name] for name in ("perm", "inv_perm"))
    route = Route.of(rule, counts, perm=perm, inv_perm=inv_perm, keep_indices=given)
    if rule.selection == "given":
        return route
    y = F.layer_norm(x.float(), weight.shape, weight.float(), bias.float(), EPSILON)
    scores = group_scores(rule.selection, x, y, perm, inv_perm)[0]
    if not counts.num_merged:
        return replace(route, num_groups=clear_cut(scores, counts.num_groups))
    squares = group_variance(y, SQUARE)[0]
    num_whole = clear_cut(squares, len(squares) - counts.num_merged)
    merged = torch.zeros_like(squares, dtype=torch.bool)
    merged[squares.argsort(descending=True)[num_whole:]] = True
    unmerged = scores[~merged.repeat_interleave(SQUARE // GROUP)]
    return replace(route, num_groups=clear_cut(unmerged, counts.num_groups), num_merged=int(merged.sum()))


def clear_cut(scores: Tensor, wanted: int) -> int:
    """About how many groups to select so that the last one's score is well above the next one's: rounding decides
    nothing, and every correct kernel selects the same."""
    scores = scores.sort(descending=True).values
    first = max(1, wanted - NEAR)
    return first + int((scores[:-1] - scores[1:])[first - 1 : wanted + NEAR].argmax())


def received(result: tuple[Tensor, Tensor]) -> Tensor:
    """The row that each token receives, 0 for none, whatever order rows are in: (1, N, C)."""
    rows, row_of_token = result
    index = row_of_token.long().clamp(0, rows.shape[1])  # a wrong one must not end the process on the GPU
    rows = F.pad(rows, (0, 0, 0, 1))
    return rows.gather(1, index.unsqueeze(2).expand(-1, -1, rows.shape[2]))


def _pack(config: SamConfig, device: torch.device, selection: Selection) -> Workload:
    stream = residual_stream(config, device)
    x, weight, bias = (tensor.float() for tensor in stream)
    route = route_of(rule_of(selection), stream)
    expected = routed_mlp_pack(x, weight, bias, EPSILON, route, "reference")
    return Workload(lambda: routed_mlp_pack(*stream, EPSILON, route, "triton"), received(expected), received)


def _unpack(config: SamConfig, device: torch.device) -> Workload:
    stream = residual_stream(config, device)
    update, row_of_token = routed_mlp_pack(*stream, EPSILON, route_of(rule_of("variance"), stream), "reference")
    return Workload(
        lambda: routed_mlp_unpack(stream[0], update, row_of_token, "triton"),
        routed_mlp_unpack(stream[0].float(), update.float(), row_of_token, "reference"),
    )


WORKLOADS: dict[str, Callable[[SamConfig, torch.device], Workload]] = {
    "stripe_attention.relative_terms": _relative_terms,
    "stripe_attention.lattice": _lattice,
    "stripe_attention.window": _window,
    "stripe_attention.listed": partial(_listed, windowed=True),
    "stripe_attention.listed_own_tile": partial(_listed, windowed=False),
    **{kernel.entry: partial(_pack, selection=kernel.selection) if kernel.selection else _unpack for kernel in KERNELS},
}
"""By the kernel's name in the launch table."""
