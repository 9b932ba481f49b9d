"""``StripeAttention*`` nodes and their portable bodies.

TensorRT matches functions by name alone, so every structurally different pattern is a node type of its own, put
together here from the same pieces: ``StripeAttention`` + ``Windowed`` + ``Dense`` | ``Ranked`` | ``Interleaved``.
The inputs of a node are, in this order and where they apply, those of ``NODE_INPUTS``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from ..function_body import PLUGIN_ATTRIBUTES, FunctionBody, NodeInput
from ..geometry import PATCH, TILE
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
    """One body; where it can, it takes rows by number, which costs one pass over them and no transpose.

    Queries are in raster order throughout, because the position terms are products by grid row and by grid column.
    """

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.f = FunctionBody(pattern.node_type)
        self.inputs = tuple(f"{pattern.node_type}_{name}" for name in pattern.inputs)
        self.input = dict(zip(pattern.inputs, self.inputs, strict=True))
        self.num_heads = self.f.Reshape(self.f.attribute("num_heads", int), self.f.ints(1))
        self.size = self.f.Shape(self.input["rel_index"], start=0, end=1)
        self.length = self.f.Mul(self.size, self.size)
        self.rows = self.head_rows()

    def function(self) -> onnx.FunctionProto:
        q = self.heads("q", self.input["members" if self.pattern.windowed else "inv_perm"])
        if self.pattern.own_tile:
            out = self.with_own_tile(q)
        elif self.pattern.dense and not self.pattern.windowed:
            out = self.over_the_grid(q)
        else:
            out = self.over_stripe(q)
        return self.f.build(self.inputs, [out], ATTRIBUTES)

    def count_up(self, count: str) -> str:
        """0, 1, 2, ... as int32; ``count`` is a vector of one number."""
        f = self.f
        return self.int32(f.Range(f.Constant(value_int=0), f.Squeeze(count), f.Constant(value_int=1)))

    def int32(self, x: str) -> str:
        """The type of the index tables, in which numbers are computed with them."""
        return self.f.Cast(x, to=TensorProto.INT32)

    def head_rows(self) -> str:
        """``qkv`` head by head: (B, N * 3 * num_heads, head_dim); in windows the padding is one token more."""
        f, x = self.f, self.input["qkv"]
        if self.pattern.windowed:
            batch = f.Concat(f.Shape(x, start=0, end=1), f.ints(1, 1), axis=0)
            x = f.Concat(x, f.Expand(self.input["qkv_bias"], batch), axis=1)
        head_dim = f.Div(f.Shape(x, start=2, end=3), f.Mul(self.num_heads, f.ints(3)))
        return f.Reshape(x, f.concat_shape(0, -1, head_dim))

    def heads(self, part: str, tokens: str) -> str:
        """q, k or v of tokens (P,), or in windows of (W, P): (B or B * W, num_heads, P, head_dim)."""
        f, num_heads = self.f, self.int32(self.num_heads)
        head = f.Add(self.count_up(self.num_heads), f.Mul(num_heads, self.int32(f.ints("qkv".index(part)))))
        first = f.Mul(f.Unsqueeze(tokens, f.ints(-2)), f.Mul(num_heads, self.int32(f.ints(3))))
        rows = f.Gather(self.rows, f.Add(first, f.Unsqueeze(head, f.ints(1))), axis=1)
        if not self.pattern.windowed:
            return rows
        return f.Reshape(rows, f.Concat(f.ints(-1), f.Shape(rows, start=2), axis=0))

    def of_slots(self, part: str, slots: str) -> str:
        """k or v of slots (M,) or (B, num_heads, M): (B, num_heads, M, head_dim), with B * W for B in windows."""
        f = self.f
        if self.pattern.ranked:
            tokens = self.input["members"] if self.pattern.windowed else self.count_up(self.length)
            return self.take(self.heads(part, tokens), slots)
        return self.heads(part, f.Gather(self.input["members"], slots, axis=1) if self.pattern.windowed else slots)

    def take(self, x: str, index: str) -> str:
        """Rows of (B, num_heads, L, C) by a shared (M,) index or by a (B, num_heads, M) one."""
        return self.take_from_all(x, index) if self.pattern.ranked else self.f.Gather(x, index, axis=2)

    def take_from_all(self, x: str, index: str, perm: Sequence[int] = (0, 1, 2)) -> str:
        """Rows of (B, num_heads, L, C) by a (B, num_heads, M) index, their axes then in the order ``perm``."""
        f = self.f
        heads = f.Shape(index, start=0, end=2)
        first = f.Mul(self.count_up(f.ReduceProd(heads, keepdims=1)), self.int32(self.length))
        row = f.Add(index, f.Reshape(first, f.Concat(heads, f.ints(1), axis=0)))
        rows = f.Reshape(x, f.Concat(f.ints(-1), f.Shape(x, start=3), axis=0))
        return f.Gather(rows, f.Transpose(row, perm=perm), axis=0)

    def merge_heads(self, out: str, slots: str) -> str:
        """(B or B * W, num_heads, L, head_dim) -> (B, N, C), given each token's slot (N,), in windows W * L of them."""
        f, length = self.f, self.int32(self.length)
        slots = f.Unsqueeze(slots, f.ints(1))
        if self.pattern.windowed:  # the heads of a window follow one another
            others = f.Sub(self.int32(self.num_heads), self.int32(f.ints(1)))
            slots = f.Add(slots, f.Mul(f.Div(slots, length), f.Mul(others, length)))
        row = f.Add(slots, f.Mul(self.count_up(self.num_heads), length))
        batch = f.Shape(self.input["qkv"], start=0, end=1)
        rows = f.Reshape(out, f.Concat(batch, f.ints(-1), f.Shape(out, start=3), axis=0))
        return f.Reshape(f.Gather(rows, row, axis=1), f.ints(0, 0, -1))

    def coordinates(self, axis: int) -> str:
        """The grid rows (``axis`` 0) or columns that keys can have: of a lattice, those of the sub-grid around it.

        As in `lattice_steps`, the step is halved for every bit of (offsets - 1) that is this axis's; no offsets count
        as all.
        """
        f, one = self.f, self.f.Constant(value_int=1)
        if self.pattern != PATTERNS[0]:
            return self.int32(f.Range(f.Constant(value_int=0), f.Squeeze(self.size), one))
        last = f.Mod(f.Sub(f.attribute("lattice_offsets", int), one), f.Constant(value_int=TILE))
        step = f.Constant(value_int=PATCH)
        for bit in range(axis, TILE.bit_length() - 1, 2):
            used = f.Min(f.Div(last, f.Constant(value_int=1 << bit)), one)
            step = f.Div(step, f.Add(used, one))
        return self.int32(f.Range(f.Constant(value_int=0), f.Squeeze(self.size), step))

    def relative_terms(self, q: str) -> tuple[str, str]:
        """Bias terms of raster queries against every coordinate that keys can have: (B, num_heads, L, -1) each."""
        f = self.f
        raster = f.Reshape(q, f.concat_shape(0, 0, self.size, self.size, -1))
        swap = [0, 1, 3, 2, 4]
        terms = []
        for axis, name in enumerate(("rel_pos_h", "rel_pos_w")):
            index = f.Gather(self.input["rel_index"], self.coordinates(axis), axis=1)
            table = f.Transpose(f.Gather(self.input[name], index, axis=0), perm=[0, 2, 1])
            term = (
                f.MatMul(raster, table)
                if axis == 0
                else f.Transpose(f.MatMul(f.Transpose(raster, perm=swap), table), perm=swap)
            )
            terms.append(f.Reshape(term, f.Concat(f.ints(0, 0, -1), f.Shape(term, start=4), axis=0)))
        return terms[0], terms[1]

    def query_channels(self, q: str) -> str:
        """[q | rel_h | rel_w]: its product with `key_channels` is the scores, bias included."""
        return self.f.Concat(q, *self.relative_terms(q), axis=3)

    def key_channels(self, slots: str) -> str:
        """[scale * k | one-hot grid row | one-hot grid column] of slots, in the shape of `of_slots`."""
        f, k, size = self.f, self.of_slots("k", slots), self.int32(self.size)
        raster = slots if self.pattern.windowed else f.Gather(self.input["perm"], slots, axis=0)
        row = f.Div(raster, size)
        both = row, f.Sub(raster, f.Mul(row, size))
        hot = [f.Equal(f.Unsqueeze(one, f.ints(-1)), self.coordinates(axis)) for axis, one in enumerate(both)]
        one_hot = f.CastLike(f.Concat(*hot, axis=-1), k)
        shape = f.Concat(f.Shape(k, start=0, end=3), f.ints(1), axis=0)
        return f.Concat(f.Mul(k, self.scale_like(k)), f.Expand(one_hot, shape), axis=3)

    def scale_like(self, x: str) -> str:
        return self.f.CastLike(self.f.attribute("scale", float), x)

    def scores(self, q: str, k: str) -> str:
        """(B, num_heads, L, M)."""
        return self.f.MatMul(q, self.f.Transpose(k, perm=[0, 1, 3, 2]))

    def over_stripe(self, q: str) -> str:
        """Nothing but a softmax between the two products, in the graph's type, which is what fused attention takes."""
        f = self.f
        keys = self.count_up(self.length) if self.pattern.dense else self.input["keys"]
        scores = self.scores(self.query_channels(q), self.key_channels(keys))
        out = f.MatMul(f.Softmax(scores, axis=-1), self.of_slots("v", keys))
        return self.merge_heads(out, self.input["slots" if self.pattern.windowed else "perm"])

    def over_the_grid(self, q: str) -> str:
        """With all keys of the grid in raster order the bias is an outer sum, cheaper than 2 S channels; float32."""
        f, inv_perm = self.f, self.input["inv_perm"]
        rel_h, rel_w = (f.Cast(term, to=TensorProto.FLOAT) for term in self.relative_terms(q))
        bias = f.Reshape(f.Add(f.Unsqueeze(rel_h, f.ints(4)), f.Unsqueeze(rel_w, f.ints(3))), f.ints(0, 0, 0, -1))
        scores = self.scores(f.Mul(q, self.scale_like(q)), self.heads("k", inv_perm))
        weights = f.Softmax(f.Add(f.Cast(scores, to=TensorProto.FLOAT), bias), axis=-1)
        v = self.heads("v", inv_perm)
        return self.merge_heads(f.MatMul(f.CastLike(weights, v), v), self.input["perm"])

    def with_own_tile(self, q: str) -> str:
        """Softmax over the stripe and the query's own tile together, keys that are in both counted once; float32."""
        f, tiles, keys = self.f, self.input["tiles"], self.input["keys"]
        order = f.Reshape(tiles, f.ints(0, 0, -1) if self.pattern.ranked else f.ints(-1))
        tile_shape = f.Shape(self.input["tile_in_stripe"])

        def by_tile(x: str) -> str:
            return f.Reshape(x, f.Concat(f.ints(0, 0), tile_shape, f.ints(-1), axis=0))

        def flat(x: str) -> str:
            return f.Reshape(x, f.Concat(f.ints(0, 0, -1), f.Shape(x, start=4), axis=0))

        q = self.take(self.query_channels(q), f.Gather(self.input["perm"], order, axis=0))
        own = f.MatMul(by_tile(q), f.Transpose(by_tile(self.key_channels(order)), perm=[0, 1, 2, 4, 3]))
        counted = f.Cast(f.Unsqueeze(self.input["tile_in_stripe"], f.ints(1)), to=TensorProto.BOOL)
        own = f.Where(counted, f.float(NOT_A_KEY), f.Cast(own, to=TensorProto.FLOAT))
        shared = by_tile(f.Cast(self.scores(q, self.key_channels(keys)), to=TensorProto.FLOAT))
        weights = f.CastLike(f.Softmax(f.Concat(shared, own, axis=-1), axis=-1), q)
        cut = f.Concat(f.Shape(shared, start=4), f.Shape(own, start=4), axis=0)
        shared, own = f.Split(weights, cut, axis=4, outputs=2)
        out = f.MatMul(flat(shared), self.of_slots("v", keys))
        out = f.Add(out, flat(f.MatMul(own, by_tile(self.of_slots("v", order)))))
        slots = f.Expand(self.count_up(self.length), f.Shape(order))
        place = f.ScatterElements(slots, order, slots, axis=-1)
        if not self.pattern.ranked:
            return self.merge_heads(out, place)
        return f.Reshape(self.take_from_all(out, place, perm=(0, 2, 1)), f.ints(0, 0, -1))
