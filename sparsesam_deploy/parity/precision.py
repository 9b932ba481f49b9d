"""Half-precision graphs in float32 arithmetic, with or without their rounding.

Without rounding, a float16 or bfloat16 graph must agree with PyTorch as closely as a float32 one: whatever still
differs is a wrong graph, which rounding would have hidden. With rounding, it stands in for the bfloat16 kernels that
ONNX Runtime's CPU provider does not have: every result is rounded, as on a GPU, up to the accumulation order.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference

_HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
_EXACT = {"Reshape", "Transpose", "Gather", "GatherND", "GatherElements", "Slice", "Split", "Squeeze", "Unsqueeze"}
_EXACT |= {"Concat", "Identity", "Where", "Expand", "Constant", "ConstantOfShape", "ScatterElements", "Pad"}


def in_float32(model: onnx.ModelProto, inner_values: Sequence[str], rounded: bool) -> onnx.ModelProto:
    """The same graph with float32 tensors in place of its float16 or bfloat16 ones.

    Args:
        model: a graph with float32 inputs and outputs, weights loaded.
        inner_values: inner values to make outputs.
        rounded: whether every result is rounded to the type it had.
    """
    types = {}
    if rounded:
        model = shape_inference.infer_shapes(inliner.inline_local_functions(model), data_prop=True)
        types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    graph = model.graph
    for weight in graph.initializer:
        if weight.data_type in _HALF:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype("float32"), weight.name))
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _HALF:
                attribute.i = TensorProto.FLOAT
        if node.op_type in _EXACT:
            continue
        for i, name in enumerate(node.output):
            if types.get(name) in _HALF:
                node.output[i] = f"{name}__exact"
                nodes.append(helper.make_node("Cast", [node.output[i]], [f"{name}__half"], to=types[name]))
                nodes.append(helper.make_node("Cast", [f"{name}__half"], [name], to=TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner_values)
    return model
