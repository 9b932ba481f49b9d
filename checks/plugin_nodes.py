"""Custom nodes with random inputs and the reference's answer: what the TensorRT plugins are given and compared with.

The inputs are those of a real encoder: its index tables, its grid, the width of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsesam_deploy.kernel_tuning.workloads import (
    DENSITY,
    EPSILON,
    global_tables,
    received,
    residual_stream,
    route_of,
    window_tables,
)
from sparsesam_deploy.model import order
from sparsesam_deploy.model.attention import key_tables
from sparsesam_deploy.model.config import SamConfig, SparsityConfig
from sparsesam_deploy.model.ranking import ranked_sequence
from sparsesam_deploy.ops.geometry import GRID_SIZE, TILE, WINDOW_SIZE
from sparsesam_deploy.ops.routed_mlp import Route, routed_mlp_pack, routed_mlp_unpack
from sparsesam_deploy.ops.routed_mlp.onnx import UNPACK, UNPACK_INPUTS, Pack
from sparsesam_deploy.ops.routing import ROUTING_RULES, rule_of
from sparsesam_deploy.ops.stripe_attention import Stripe, stripe_attention
from sparsesam_deploy.ops.stripe_attention.onnx import Pattern
from sparsesam_deploy.parity.metrics import relative_l2

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Node:
    """One node.

    Attributes:
        name: of the case.
        node_type: of the node.
        inputs: tensors by name, in the node's order.
        attributes: by name.
        expected: the reference's float32 answers, one for each output.
    """

    name: str
    node_type: str
    inputs: dict[str, Tensor]
    attributes: dict[str, int | float]
    expected: tuple[Tensor, ...]

    def errors(self, found: list[Tensor]) -> list[float]:
        """`relative_l2` of each output. Packed rows are compared by the token that receives them."""
        expected = self.expected
        if self.node_type.startswith("RoutedMlpPack"):
            found, expected = [received(tuple(found))], (received(expected),)
        return [relative_l2(got, right) for got, right in zip(found, expected, strict=True)]


STRIPES = {  # name: (sparsity, windowed, density of attention)
    "dense": (SparsityConfig(), False, 1.0),
    "lattice": (SparsityConfig(), False, DENSITY),
    "interleaved": (SparsityConfig(order="interleaved"), False, DENSITY),
    "ranked": (SparsityConfig(order="ranked"), False, DENSITY),
    "window, dense": (SparsityConfig(), True, 1.0),
    "window, sparse": (SparsityConfig(), True, DENSITY),
    "window, ranked": (SparsityConfig(order="ranked"), True, DENSITY),
}
PACKS = {f"{'share' if rule.share else 'skip'}, {rule.selection}": rule for rule in ROUTING_RULES.values()}


def nodes(config: SamConfig, dtype: torch.dtype, batch: int, device: torch.device = CPU) -> Iterator[Node]:
    """Every node type in every form, at the shapes of ``config``; answers are computed on ``device``."""
    for name in STRIPES:
        yield attention_node(name, config, dtype, batch, device)
    for name in PACKS:
        yield pack_node(name, config, dtype, batch, device)
    yield unpack_node(config, dtype, batch, device)


def attention_node(name: str, config: SamConfig, dtype: torch.dtype, batch: int, device: torch.device = CPU) -> Node:
    """A ``StripeAttention*`` node; position tables matter as much as the products q . k."""
    sparsity, windowed, density = STRIPES[name]
    static = key_tables(windowed, density, sparsity)
    tables = window_tables(CPU) if windowed else global_tables(CPU)
    generator = torch.Generator().manual_seed(0)
    side = WINDOW_SIZE if windowed else GRID_SIZE
    given = {"keys": static.keys, "tiles": static.tiles, "tile_in_stripe": static.tile_in_stripe}
    given = {key: torch.tensor(table, dtype=torch.int32) for key, table in given.items() if table is not None}
    if sparsity.order == "ranked":
        groups = torch.tensor(order.window_groups(WINDOW_SIZE) if windowed else order.z_groups(GRID_SIZE**2))
        sequences = batch * (len(tables["members"]) if windowed else 1)
        ranking = torch.rand(sequences, config.num_heads, len(groups), generator=generator).argsort(-1)
        sequence = ranked_sequence(ranking, groups.int())
        given["keys"] = sequence[..., : static.num_keys].contiguous()
        if static.tiles is not None:
            given["tiles"] = sequence.unflatten(-1, (-1, TILE)).contiguous()
    stripe = Stripe(**tables, **given, lattice_offsets=static.lattice_offsets)
    channels, table_shape = config.embed_dim, (2 * side - 1, config.head_dim)
    random = {
        "qkv": torch.randn(batch, GRID_SIZE**2, 3 * channels, generator=generator),
        "qkv_bias": torch.randn(3 * channels, generator=generator),
        "rel_pos_h": torch.randn(table_shape, generator=generator) / config.head_dim**0.5,
        "rel_pos_w": torch.randn(table_shape, generator=generator) / config.head_dim**0.5,
    }
    random = {key: tensor.to(dtype) for key, tensor in random.items()}
    pattern = Pattern(windowed, "keys" not in given, sparsity.order == "ranked", "tiles" in given)
    single = (random[key].float().to(device) for key in ("qkv", "qkv_bias", "rel_pos_h", "rel_pos_w"))
    expected = stripe_attention(*single, _moved(stripe, device), config.num_heads).cpu()
    everything = {**vars(stripe), **random}
    return Node(
        name,
        pattern.node_type,
        {key: everything[key] for key in pattern.inputs},
        {
            "num_heads": config.num_heads,
            "scale": config.head_dim**-0.5,
            "lattice_offsets": static.lattice_offsets or 0,
        },
        (expected,),
    )


def _images(config: SamConfig, dtype: torch.dtype, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """A stream and its norm; every other image is turned by 180 degrees, which leaves the set of scores as it is."""
    x, weight, bias = residual_stream(config, CPU)
    x = torch.cat([x.flip(1) if image % 2 else x for image in range(batch)])
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


def pack_node(name: str, config: SamConfig, dtype: torch.dtype, batch: int, device: torch.device = CPU) -> Node:
    """A ``RoutedMlpPack*`` node, whose selection no rounding can change."""
    rule, stream = PACKS[name], _images(config, dtype, batch)
    route = route_of(rule, _images(config, dtype, 1))
    pack = Pack(rule.selection, rule.share)
    everything = {**vars(route), **dict(zip(("x", "weight", "bias"), stream, strict=True)), "epsilon": EPSILON}
    expected = routed_mlp_pack(*(tensor.float().to(device) for tensor in stream), EPSILON, _moved(route, device))
    return Node(
        name,
        pack.node_type,
        {key: everything[key] for key in pack.inputs},
        {key: everything[key] for key in pack.attributes},
        tuple(tensor.cpu() for tensor in expected),
    )


def _moved(tables: Stripe | Route, device: torch.device) -> Stripe | Route:
    tensors = {key: value.to(device) for key, value in vars(tables).items() if isinstance(value, Tensor)}
    return replace(tables, **tensors)


def unpack_node(config: SamConfig, dtype: torch.dtype, batch: int, device: torch.device = CPU) -> Node:
    """The ``RoutedMlpUnpack`` node, most tokens of which receive an update."""
    stream = _images(config, dtype, batch)
    route = route_of(rule_of("variance"), _images(config, dtype, 1))
    skipped = Route(route.selection, False, route.num_groups)
    update, row_of_token = routed_mlp_pack(*stream, EPSILON, skipped)
    single = (tensor.to(device) for tensor in (stream[0].float(), update.float(), row_of_token))
    expected = routed_mlp_unpack(*single).cpu()
    inputs = dict(zip(UNPACK_INPUTS, (stream[0], update, row_of_token), strict=True))
    return Node("unpack", UNPACK, inputs, {}, (expected,))
