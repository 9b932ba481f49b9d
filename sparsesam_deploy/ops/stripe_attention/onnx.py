"""``StripeAttention*`` nodes and their portable bodies.

TensorRT matches functions by name alone, so every structurally different pattern is a node type of its own, put
together here from the same pieces: ``StripeAttention`` + ``Windowed`` + ``Dense`` | ``Ranked`` | ``Interleaved``.
The inputs of a node are, in this order and where they apply, those of ``NODE_INPUTS``.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from ..function_body import PLUGIN_ATTRIBUTES, FunctionBody, NodeInput
from .stripe import Stripe

NODE_INPUTS = {
    "qkv": NodeInput(3),
    "rel_pos_h": NodeInput(2),
    "rel_pos_w": NodeInput(2),
    "rel_index": NodeInput(2, index=True),
    "qkv_bias": NodeInput(1),
    "members": NodeInput(2, index=True),
    "slots": NodeInput(1, index=True),
    "perm": NodeInput(1, index=True),
    "inv_perm": NodeInput(1, index=True),
    "keys": NodeInput(1, index=True),
    "tiles": NodeInput(2, index=True),
    "tile_in_stripe": NodeInput(2, index=True),
}
ATTRIBUTES = {"num_heads": int, "scale": float, "lattice_offsets": int}
NOT_A_KEY = -3.0e38
"""Stands in for minus infinity: finite, so that no product with zero can become NaN."""


@dataclass(frozen=True)
class Pattern:
    """What distinguishes one node type from another."""

    windowed: bool
    dense: bool
    ranked: bool
    own_tile: bool

    @property
    def node_type(self) -> str:
        kind = "Dense" if self.dense else "Ranked" if self.ranked else "Interleaved" if self.own_tile else ""
        return "StripeAttention" + ("Windowed" if self.windowed else "") + kind

    @property
    def inputs(self) -> dict[str, NodeInput]:
        """By name, in the node's order; in ranked nodes every head of every sequence has keys and tiles of its own."""
        absent = {"perm", "inv_perm"} if self.windowed else {"qkv_bias", "members", "slots"}
        if self.dense:
            absent |= {"keys"}
        if not self.own_tile:
            absent |= {"tiles", "tile_in_stripe"}
        inputs = {name: one for name, one in NODE_INPUTS.items() if name not in absent}
        if self.ranked:
            inputs |= {name: NodeInput(inputs[name].rank + 2, True) for name in ("keys", "tiles") if name in inputs}
        return inputs


PATTERNS = (
    Pattern(windowed=False, dense=False, ranked=False, own_tile=False),
    Pattern(windowed=False, dense=True, ranked=False, own_tile=False),
    Pattern(windowed=False, dense=False, ranked=False, own_tile=True),
    Pattern(windowed=False, dense=False, ranked=True, own_tile=True),
    Pattern(windowed=True, dense=False, ranked=False, own_tile=False),
    Pattern(windowed=True, dense=True, ranked=False, own_tile=False),
    Pattern(windowed=True, dense=False, ranked=True, own_tile=False),
)


def symbolic_stripe_attention(
    qkv: Tensor, qkv_bias: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, stripe: Stripe, num_heads: int
) -> Tensor:
    """Emit the node for ``stripe`` into the graph being exported; arguments as in ``stripe_attention``."""
    pattern = Pattern(
        windowed=stripe.members is not None,
        dense=stripe.keys is None,
        ranked=stripe.keys is not None and stripe.keys.dim() > 1,
        own_tile=stripe.tiles is not None,
    )
    values = {**vars(stripe), "qkv": qkv, "qkv_bias": qkv_bias, "rel_pos_h": rel_pos_h, "rel_pos_w": rel_pos_w}
    channels = qkv.shape[2] // 3
    return torch.onnx.ops.symbolic(
        f"sparsesam::{pattern.node_type}",
        tuple(values[name] for name in pattern.inputs),
        attrs={
            "num_heads": num_heads,
            "scale": (channels // num_heads) ** -0.5,
            "lattice_offsets": stripe.lattice_offsets or 0,
            **PLUGIN_ATTRIBUTES,
        },
        dtype=qkv.dtype,
        shape=(*qkv.shape[:2], channels),
        version=1,
    )


def function_bodies() -> list[onnx.FunctionProto]:
    """The portable body of every ``StripeAttention*`` node type."""
    return [_Body(pattern).function() for pattern in PATTERNS]


class _Body:
    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.f = FunctionBody(pattern.node_type)
        self.inputs = tuple(f"{pattern.node_type}_{name}" for name in pattern.inputs)
        self.input = dict(zip(pattern.inputs, self.inputs, strict=True))

    def function(self) -> onnx.FunctionProto:
        f = self.f
        q, k, v = self.heads()
        rel_h, rel_w = self.relative_terms(q)
        scaled = f.Mul(q, f.CastLike(f.attribute("scale", float), q))
        if self.pattern.own_tile:
            out = self.with_own_tile(scaled, k, v, rel_h, rel_w)
        else:
            k, v, bias = self.shared_keys(k, v, rel_h, rel_w)
            scores = f.Add(self.scores(scaled, k), bias)
            out = f.MatMul(f.CastLike(f.Softmax(scores, axis=-1), v), v)
        return f.build(self.inputs, [self.merge_heads(out)], ATTRIBUTES)

    def heads(self) -> tuple[str, str, str]:
        """q, k, v: (B, num_heads, L, head_dim), with B = batch * num_windows in windowed blocks."""
        f, x = self.f, self.input["qkv"]
        if self.pattern.windowed:
            batch = f.Concat(f.Shape(x, start=0, end=1), f.ints(1, 1), axis=0)
            padded = f.Concat(x, f.Expand(self.input["qkv_bias"], batch), axis=1)
            x = f.Gather(padded, self.input["members"], axis=1)
            x = f.Reshape(x, f.Concat(f.ints(-1), f.Shape(x, start=2, end=4), axis=0))
        split = f.Reshape(x, f.concat_shape(0, 0, 3, f.attribute("num_heads", int), -1))
        parts = f.Split(f.Transpose(split, perm=[2, 0, 3, 1, 4]), axis=0, num_outputs=3, outputs=3)
        q, k, v = (f.Squeeze(part, f.ints(0)) for part in parts)
        return q, k, v

    def merge_heads(self, out: str) -> str:
        f = self.f
        out = f.Reshape(f.Transpose(out, perm=[0, 2, 1, 3]), f.ints(0, 0, -1))
        if self.pattern.windowed:
            shape = f.concat_shape(f.Shape(self.input["qkv"], start=0, end=1), -1, f.Shape(out, start=2, end=3))
            out = f.Gather(f.Reshape(out, shape), self.input["slots"], axis=1)
        return out

    def relative_terms(self, q: str) -> tuple[str, str]:
        """Per-query bias terms against every key row and every key column: (B, num_heads, L, S) each."""
        f = self.f
        size = f.Shape(self.input["rel_index"], start=0, end=1)
        raster = q if self.pattern.windowed else f.Gather(q, self.input["inv_perm"], axis=2)
        raster = f.Reshape(raster, f.concat_shape(0, 0, size, size, -1))
        swap = [0, 1, 3, 2, 4]
        terms = []
        for axis, name in enumerate(("rel_pos_h", "rel_pos_w")):
            table = f.Transpose(f.Gather(self.input[name], self.input["rel_index"], axis=0), perm=[0, 2, 1])
            term = (
                f.MatMul(raster, table)
                if axis == 0
                else f.Transpose(f.MatMul(f.Transpose(raster, perm=swap), table), perm=swap)
            )
            term = f.Reshape(term, f.concat_shape(0, 0, -1, size))
            terms.append(term if self.pattern.windowed else f.Gather(term, self.input["perm"], axis=2))
        return terms[0], terms[1]

    def scores(self, scaled_q: str, k: str, by_tile: bool = False) -> str:
        """Scores in float32, where bias, mask and softmax are; ``by_tile``: both have an axis of tiles."""
        f = self.f
        axes = [0, 1, 2, 4, 3] if by_tile else [0, 1, 3, 2]
        return f.Cast(f.MatMul(scaled_q, f.Transpose(k, perm=axes)), to=TensorProto.FLOAT)

    def shared_keys(self, k: str, v: str, rel_h: str, rel_w: str) -> tuple[str, str, str]:
        """Keys, values and float32 bias of the stripe: (B, num_heads, M, head_dim) twice, (B, num_heads, L, M)."""
        f = self.f
        rel_h, rel_w = f.Cast(rel_h, to=TensorProto.FLOAT), f.Cast(rel_w, to=TensorProto.FLOAT)
        if self.pattern.dense:  # in raster order the bias is an outer sum: no gather of a score-sized tensor
            if not self.pattern.windowed:
                k, v = (f.Gather(x, self.input["inv_perm"], axis=2) for x in (k, v))
            outer = f.Add(f.Unsqueeze(rel_h, f.ints(4)), f.Unsqueeze(rel_w, f.ints(3)))
            return k, v, f.Reshape(outer, f.ints(0, 0, 0, -1))
        keys = self.input["keys"]
        row, col = self.coordinates(keys)
        bias = f.Add(self.take(rel_h, row, 3), self.take(rel_w, col, 3))
        return self.take(k, keys, 2), self.take(v, keys, 2), bias

    def coordinates(self, slots: str) -> tuple[str, str]:
        """Grid row and column of slots, in the shape of ``slots``."""
        f = self.f
        raster = slots if self.pattern.windowed else f.Gather(self.input["perm"], slots, axis=0)
        size = f.CastLike(f.Shape(self.input["rel_index"], start=0, end=1), raster)
        row = f.Div(raster, size)
        return row, f.Sub(raster, f.Mul(row, size))

    def take(self, x: str, index: str, axis: int) -> str:
        """Select along ``axis`` of (B, num_heads, rows, cols): by a shared (M,) index or by a (B, num_heads, M) one."""
        f = self.f
        if not self.pattern.ranked:
            return f.Gather(x, index, axis=axis)
        count = f.Shape(index, start=2, end=3)
        kept = f.Shape(x, start=5 - axis, end=6 - axis)
        shape = f.concat_shape(
            f.Shape(x, start=0, end=1), f.Shape(x, start=1, end=2), *((count, kept) if axis == 2 else (kept, count))
        )
        return f.GatherElements(x, f.Expand(f.Unsqueeze(index, f.ints(5 - axis)), shape), axis=axis)

    def with_own_tile(self, scaled_q: str, k: str, v: str, rel_h: str, rel_w: str) -> str:
        """Softmax over the stripe and the query's own tile together, keys that are in both counted once."""
        f, tiles = self.f, self.input["tiles"]
        k_stripe, v_stripe, bias = self.shared_keys(k, v, rel_h, rel_w)
        order = f.Reshape(tiles, f.ints(0, 0, -1) if self.pattern.ranked else f.ints(-1))
        tile_shape = f.Shape(self.input["tile_in_stripe"])

        def by_tile(x: str) -> str:
            return f.Reshape(self.take(x, order, 2), f.Concat(f.ints(0, 0), tile_shape, f.ints(-1), axis=0))

        q_tile, k_tile, v_tile = by_tile(scaled_q), by_tile(k), by_tile(v)
        own = self.scores(q_tile, k_tile, by_tile=True)
        for terms, coordinate in zip((rel_h, rel_w), self.coordinates(tiles), strict=True):
            index = f.Expand(f.Unsqueeze(coordinate, f.ints(-2)), f.Shape(own))
            own = f.Add(own, f.Cast(f.GatherElements(by_tile(terms), index, axis=4), to=TensorProto.FLOAT))
        counted = f.Cast(f.Unsqueeze(self.input["tile_in_stripe"], f.ints(1)), to=TensorProto.BOOL)
        own = f.Where(counted, f.float(NOT_A_KEY), own)
        shared = self.take(f.Add(self.scores(scaled_q, k_stripe), bias), order, 2)
        shared = f.Reshape(shared, f.Concat(f.ints(0, 0), tile_shape, f.ints(-1), axis=0))
        weights = f.CastLike(f.Softmax(f.Concat(shared, own, axis=-1), axis=-1), v)
        cut = f.Concat(f.Shape(shared, start=4), f.Shape(own, start=4), axis=0)
        shared, own = f.Split(weights, cut, axis=4, outputs=2)
        flat = f.Concat(f.ints(0, 0, -1), f.Shape(shared, start=4), axis=0)
        out = f.Reshape(f.MatMul(own, v_tile), f.Shape(scaled_q))
        out = f.Add(out, f.MatMul(f.Reshape(shared, flat), v_stripe))
        index = f.Expand(f.Unsqueeze(order, f.ints(-1)), f.Shape(scaled_q))
        zeros = f.CastLike(f.ConstantOfShape(f.Shape(scaled_q)), scaled_q)
        return f.ScatterElements(zeros, index, out, axis=2)
