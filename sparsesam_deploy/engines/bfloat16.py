"""bfloat16 graphs on runtimes without bfloat16 kernels: float32 arithmetic, each result rounded to bfloat16.

ONNX Runtime's CPU provider has next to no bfloat16 kernels. Rounding after every operator is what a GPU does too, up
to the accumulation order inside one.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference

_BF16, _FP32 = TensorProto.BFLOAT16, TensorProto.FLOAT
_EXACT = {"Reshape", "Transpose", "Gather", "GatherND", "GatherElements", "Slice", "Split", "Squeeze", "Unsqueeze"}
_EXACT |= {"Concat", "Identity", "Where", "Expand", "Constant", "ConstantOfShape", "ScatterElements", "Pad"}


def with_rounding_emulated(model: onnx.ModelProto, inner_values: Sequence[str] = ()) -> onnx.ModelProto:
    """The same computation with float32 tensors that only ever hold bfloat16 values.

    Args:
        model: a graph with float32 inputs and outputs.
        inner_values: inner values to make outputs, in float32.
    """
    model = shape_inference.infer_shapes(inliner.inline_local_functions(model), data_prop=True)
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    for weight in graph.initializer:
        if weight.data_type == _BF16:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype("float32"), weight.name))
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == _BF16:
            _set_cast(node, _FP32)
        if node.op_type in _EXACT:
            continue
        for i, name in enumerate(node.output):
            if types.get(name) == _BF16:
                node.output[i] = f"{name}__exact"
                nodes.append(helper.make_node("Cast", [node.output[i]], [f"{name}__bf16"], to=_BF16))
                nodes.append(helper.make_node("Cast", [f"{name}__bf16"], [name], to=_FP32))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner_values)
    return model


def _set_cast(node: onnx.NodeProto, dtype: int) -> None:
    for attribute in node.attribute:
        if attribute.name == "to":
            attribute.i = dtype
