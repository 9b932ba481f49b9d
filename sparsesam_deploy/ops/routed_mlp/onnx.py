"""``RoutedMlpPack*`` and ``RoutedMlpUnpack`` nodes and their portable bodies."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import torch
from onnx import AttributeProto, TensorProto
from torch import Tensor

from ..function_body import PLUGIN_ATTRIBUTES, FunctionBody, NodeInput
from ..geometry import GROUP, SQUARE
from ..routing import ROUTING_RULES, Route, Selection

PACK_ATTRIBUTES = {"epsilon": float, "num_groups": int, "num_merged": int}
"""By name, the last for ``quadtree`` alone."""


@dataclass(frozen=True)
class Pack:
    """What distinguishes one pack node type from another."""

    selection: Selection
    share: bool

    @property
    def node_type(self) -> str:
        return "RoutedMlpPack" + ("Share" if self.share else "Skip") + self.selection.capitalize()

    @property
    def inputs(self) -> dict[str, NodeInput]:
        """By name, in the node's order."""
        inputs = {"x": NodeInput(3), "weight": NodeInput(1), "bias": NodeInput(1)}
        if self.selection == "sobel":
            inputs |= {"perm": NodeInput(1, index=True), "inv_perm": NodeInput(1, index=True)}
        elif self.selection == "given":
            inputs |= {"keep_indices": NodeInput(2, index=True)}
        return inputs

    @property
    def attributes(self) -> tuple[str, ...]:
        return tuple(name for name in PACK_ATTRIBUTES if name != "num_merged" or self.selection == "quadtree")


PACKS = tuple(dict.fromkeys(Pack(rule.selection, rule.share) for rule in ROUTING_RULES.values()))
UNPACK = "RoutedMlpUnpack"
UNPACK_INPUTS = {"x": NodeInput(3), "update": NodeInput(3), "row_of_token": NodeInput(2, index=True)}


def symbolic_pack(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, route: Route) -> tuple[Tensor, Tensor]:
    """Emit the pack node for ``route`` into the graph being exported; arguments as in ``routed_mlp_pack``."""
    pack = Pack(route.selection, route.share)
    values = {**vars(route), "x": x, "weight": weight, "bias": bias, "epsilon": epsilon}
    rows, row_of_token = torch.onnx.ops.symbolic_multi_out(
        f"sparsesam::{pack.node_type}",
        tuple(values[name] for name in pack.inputs),
        attrs={**{name: values[name] for name in pack.attributes}, **PLUGIN_ATTRIBUTES},
        dtypes=(x.dtype, torch.int32),
        shapes=((x.shape[0], route.num_rows(x.shape[1]), x.shape[2]), (x.shape[0], x.shape[1])),
        version=1,
    )
    return rows, row_of_token


def symbolic_unpack(x: Tensor, update: Tensor, row_of_token: Tensor) -> Tensor:
    """Emit the unpack node into the graph being exported; arguments as in ``routed_mlp_unpack``."""
    return torch.onnx.ops.symbolic(
        f"sparsesam::{UNPACK}",
        (x, update, row_of_token),
        attrs=PLUGIN_ATTRIBUTES,
        dtype=x.dtype,
        shape=x.shape,
        version=1,
    )


def function_bodies() -> list[onnx.FunctionProto]:
    """The portable body of every routed-MLP node type."""
    return [*(_PackBody(pack).function() for pack in PACKS), _unpack_body()]


def _unpack_body() -> onnx.FunctionProto:
    """Tokens without a row take one of zeros, and so does what only a broken graph decides: it is judged elsewhere."""
    f = FunctionBody(UNPACK)
    inputs = tuple(f"{UNPACK}_{name}" for name in UNPACK_INPUTS)
    x, update, row_of_token = inputs
    nothing = f.Expand(
        f.CastLike(f.float(0.0), update), f.concat_shape(f.Shape(update, start=0, end=1), 1, f.Shape(update, start=2))
    )
    row = f.Min(row_of_token, f.CastLike(f.Shape(update, start=1, end=2), row_of_token))
    row = f.Cast(f.Unsqueeze(row, f.ints(2)), to=TensorProto.INT64)
    updates = f.GatherND(f.Concat(update, nothing, axis=1), row, batch_dims=1)
    return f.build(inputs, [f.Add(x, updates)], ())


class _PackBody:
    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self.f = FunctionBody(pack.node_type)
        self.inputs = tuple(f"{pack.node_type}_{name}" for name in pack.inputs)
        self.input = dict(zip(pack.inputs, self.inputs, strict=True))

    def function(self) -> onnx.FunctionProto:
        x32 = self.f.Cast(self.input["x"], to=TensorProto.FLOAT)
        y = self.normalised(x32)
        if self.pack.selection == "given":
            rows, row_of_token = self.given(y)
        elif self.pack.selection == "quadtree":
            rows, row_of_token = self.by_square(y)
        else:
            rows, row_of_token = self.by_group(x32, y)
        results = [self.f.CastLike(rows, self.input["x"]), self.f.Cast(row_of_token, to=TensorProto.INT32)]
        return self.f.build(self.inputs, results, self.pack.attributes)

    def normalised(self, x32: str) -> str:
        f = self.f
        weight, bias = (f.Cast(self.input[name], to=TensorProto.FLOAT) for name in ("weight", "bias"))
        y = f.LayerNormalization(x32, weight, bias, axis=-1)
        f.nodes[-1].attribute.append(AttributeProto(name="epsilon", ref_attr_name="epsilon", type=AttributeProto.FLOAT))
        return y

    def given(self, y: str) -> tuple[str, str]:
        f, keep = self.f, self.input["keep_indices"]
        batch, num_tokens = f.Shape(y, start=0, end=1), f.Shape(y, start=1, end=2)
        num_keep = f.Shape(keep, start=1, end=2)
        keep = f.Cast(f.Expand(keep, f.Concat(batch, f.ints(1), axis=0)), to=TensorProto.INT64)
        rows = f.GatherND(y, f.Unsqueeze(keep, f.ints(2)), batch_dims=1)
        nothing = f.Expand(num_keep, f.Concat(batch, num_tokens, axis=0))
        return rows, f.ScatterElements(nothing, keep, self.count_up(keep), axis=1)

    def by_group(self, x32: str, y: str) -> tuple[str, str]:
        """Detailed groups first, best score first; then one mean row for each flat group, or nothing."""
        f = self.f
        groups, mean = self.parts(y, GROUP)
        score = self.variance(groups, mean) if self.pack.selection == "variance" else self.sobel(x32)
        num_all = f.Shape(score, start=1)
        order, rank = self.ranked(score, num_all)
        num_groups = f.Reshape(f.attribute("num_groups", int), f.ints(1))
        num_full = f.Mul(num_groups, f.ints(GROUP))
        rows = self.rows_of(groups, f.Slice(order, f.ints(0), num_groups, f.ints(1)))
        other = num_full
        if self.pack.share:
            rows = f.Concat(rows, self.rows_of(mean, f.Slice(order, num_groups, num_all, f.ints(1))), axis=1)
            other = f.Add(f.Unsqueeze(rank, f.ints(2)), f.Sub(num_full, num_groups))
        rank = f.Unsqueeze(rank, f.ints(2))
        own = f.Add(f.Mul(rank, f.ints(GROUP)), f.ints(*range(GROUP)))
        row_of_token = f.Where(f.Less(rank, num_groups), own, other)
        return rows, f.Reshape(row_of_token, f.ints(0, -1))

    def by_square(self, y: str) -> tuple[str, str]:
        """As `by_group`, and after the flat groups one mean row for each merged square, which their groups share."""
        f = self.f
        num_groups, num_merged = (f.Reshape(f.attribute(name, int), f.ints(1)) for name in ("num_groups", "num_merged"))
        (groups, mean), (squares, square_mean) = self.parts(y, GROUP), self.parts(y, SQUARE)
        num_all, num_squares = f.Shape(groups, start=1, end=2), f.Shape(squares, start=1, end=2)
        num_whole = f.Sub(num_squares, num_merged)
        square_order, square_rank = self.ranked(self.variance(squares, square_mean), num_squares)
        square_rank = f.Unsqueeze(square_rank, f.ints(2))
        merged = f.Less(f.Sub(num_whole, f.ints(1)), square_rank)

        # merged squares' groups come last, since a variance is not negative
        score = f.Reshape(self.variance(groups, mean), f.ints(0, -1, SQUARE // GROUP))
        score = f.Reshape(f.Where(merged, f.float(-1.0), score), f.ints(0, -1))
        order, rank = self.ranked(score, num_all)
        num_unmerged = f.Sub(num_all, f.Mul(num_merged, f.ints(SQUARE // GROUP)))
        num_full = f.Mul(num_groups, f.ints(GROUP))
        num_flat = f.Sub(num_unmerged, num_groups)
        rows = f.Concat(
            self.rows_of(groups, f.Slice(order, f.ints(0), num_groups, f.ints(1))),
            self.rows_of(mean, f.Slice(order, num_groups, num_unmerged, f.ints(1))),
            self.rows_of(square_mean, f.Slice(square_order, num_whole, num_squares, f.ints(1))),
            axis=1,
        )
        merged_row = f.Add(square_rank, f.Sub(f.Add(num_full, num_flat), num_whole))
        flat_row = f.Add(rank, f.Sub(num_full, num_groups))
        other = f.Where(merged, merged_row, f.Reshape(flat_row, f.ints(0, -1, SQUARE // GROUP)))
        rank = f.Unsqueeze(rank, f.ints(2))
        own = f.Add(f.Mul(rank, f.ints(GROUP)), f.ints(*range(GROUP)))
        row_of_token = f.Where(f.Less(rank, num_groups), own, f.Reshape(other, f.ints(0, -1, 1)))
        return rows, f.Reshape(row_of_token, f.ints(0, -1))

    def parts(self, y: str, size: int) -> tuple[str, str]:
        """``size`` consecutive rows each (B, G, size, C), and their means (B, G, 1, C)."""
        f = self.f
        parts = f.Reshape(y, f.concat_shape(0, -1, size, f.Shape(y, start=2)))
        return parts, f.ReduceMean(parts, f.ints(2), keepdims=1)

    def ranked(self, score: str, count: str) -> tuple[str, str]:
        """Indices by descending score, and the place of each in that order: (B, G) both; ``count`` is G."""
        f = self.f
        _, order = f.TopK(score, count, axis=1, outputs=2)
        return order, f.ScatterElements(order, order, self.count_up(order), axis=1)

    def rows_of(self, groups: str, chosen: str) -> str:
        """(B, G, r, C) groups and (B, n) indices -> (B, n * r, C)."""
        f = self.f
        rows = f.GatherND(groups, f.Unsqueeze(chosen, f.ints(2)), batch_dims=1)
        return f.Reshape(rows, f.concat_shape(0, -1, f.Shape(groups, start=3)))

    def count_up(self, like: str) -> str:
        """0, 1, 2, ... along axis 1, in the shape of ``like`` (B, n)."""
        f = self.f
        count = f.Squeeze(f.Shape(like, start=1, end=2))
        steps = f.Range(f.Constant(value_int=0), count, f.Constant(value_int=1))
        return f.Expand(steps, f.Shape(like))

    def variance(self, groups: str, mean: str) -> str:
        f = self.f
        return f.ReduceSumSquare(f.Sub(groups, mean), f.ints(2, 3), keepdims=0)

    def sobel(self, x32: str) -> str:
        """Root mean square gradient, averaged over each group; written out, since TF32 would blur a Conv."""
        f = self.f
        image = f.Gather(x32, self.input["inv_perm"], axis=1)
        size = f.Cast(f.Sqrt(f.Cast(f.Shape(x32, start=1, end=2), to=TensorProto.FLOAT)), to=TensorProto.INT64)
        image = f.Reshape(image, f.concat_shape(0, size, size, f.Shape(x32, start=2)))
        image = f.Pad(image, f.ints(0, 1, 1, 0, 0, 1, 1, 0))

        def part(x: str, axis: int, start: int, end: int) -> str:
            return f.Slice(x, f.ints(start), f.ints(end), f.ints(axis))

        def gradient(smooth_axis: int, axis: int) -> str:
            first, middle, last = (part(image, smooth_axis, s, e) for s, e in ((0, -2), (1, -1), (2, 1 << 30)))
            smooth = f.Add(f.Add(first, last), f.Mul(middle, f.float(2.0)))
            difference = f.Sub(part(smooth, axis, 2, 1 << 30), part(smooth, axis, 0, -2))
            return f.Mul(difference, difference)

        energy = f.Sqrt(f.ReduceMean(f.Add(gradient(1, 2), gradient(2, 1)), f.ints(3), keepdims=0))
        by_token = f.Gather(f.Reshape(energy, f.ints(0, -1)), self.input["perm"], axis=1)
        return f.ReduceMean(f.Reshape(by_token, f.ints(0, -1, GROUP)), f.ints(2), keepdims=0)
