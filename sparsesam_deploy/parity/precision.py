"""Half-precision graphs in float32 arithmetic, with or without their rounding.

Without rounding, a float16 or bfloat16 graph must agree with PyTorch as closely as a float32 one. A difference that
remains is a mistake in the graph, which rounding would have hidden. The rounding of weights can be undone too; then the
graph and its float32 form are both compared with one float32 computation of the module.

With rounding, it stands in for the bfloat16 kernels that ONNX Runtime's CPU provider does not have. Every result is
rounded as on a GPU; the order of additions may differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference
from torch import Tensor, nn

_HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
_EXACT = {"Reshape", "Transpose", "Gather", "GatherND", "GatherElements", "Slice", "Split", "Squeeze", "Unsqueeze"}
_EXACT |= {"Concat", "Identity", "Where", "Expand", "Constant", "ConstantOfShape", "ScatterElements", "Pad"}


def in_float32(model: onnx.ModelProto, inner_values: Sequence[str], rounded: bool) -> onnx.ModelProto:
    """The same graph with float32 tensors in place of its float16 or bfloat16 ones, inputs and outputs included.

    Args:
        model: a graph, weights loaded; it may be changed.
        inner_values: inner values to make outputs.
        rounded: whether every result is rounded to the type it had.
    """
    types = {}
    if rounded:
        model = shape_inference.infer_shapes(inliner.inline_local_functions(model), data_prop=True)
        values = (*model.graph.value_info, *model.graph.output)
        types = {value.name: value.type.tensor_type.elem_type for value in values}
    graph = model.graph
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in _HALF:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
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


def undo_rounding(model: onnx.ModelProto, parameters: Sequence[nn.Parameter], dtype: torch.dtype) -> bool:
    """Give ``model`` the float32 weights that were rounded to its own: those in ``parameters``, rounded to ``dtype``.

    Done only where it leaves no doubt: every half-precision weight is the rounding of one parameter, as it is or
    transposed, and of no other one. Else the model stays as it is. Float32 weights that are such a rounding, like a
    bfloat16 file's convolutions, are replaced with them; others, like the constants of a function, stay.

    Args:
        model: a graph, weights loaded.
        parameters: float32, of the module it was exported from.

    Returns:
        Whether it was done.
    """
    exact = [parameter.detach() for parameter in parameters]
    rounded = [values.to(dtype) for values in exact]
    origins = []
    for weight in model.graph.initializer:
        if weight.data_type not in (*_HALF, TensorProto.FLOAT):
            continue
        origin = _origin(_float_tensor(weight), exact, rounded)
        if origin is not None:
            origins.append((weight, origin))
        elif weight.data_type in _HALF:
            return False
    for weight, origin in origins:
        weight.CopyFrom(numpy_helper.from_array(origin.contiguous().numpy(), weight.name))
    return True


def _float_tensor(weight: TensorProto) -> Tensor:
    array = np.array(numpy_helper.to_array(weight))
    if weight.data_type == TensorProto.BFLOAT16:  # torch does not know numpy's
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _origin(weight: Tensor, exact: Sequence[Tensor], rounded: Sequence[Tensor]) -> Tensor | None:
    """The one of ``exact``, in the shape of ``weight``, that is rounded to it; None if there is none, or a choice."""
    pairs = [*zip(exact, rounded, strict=True)]
    pairs += [(values.T, candidate.T) for values, candidate in pairs if values.dim() == 2]
    origins = [
        values
        for values, candidate in pairs
        if candidate.shape == weight.shape and torch.equal(candidate.to(weight.dtype), weight)
    ]
    return origins[0] if origins and all(torch.equal(other, origins[0]) for other in origins[1:]) else None


@contextmanager
def rounded_to(dtype: torch.dtype, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """``parameters`` rounded to ``dtype`` meanwhile, in float32."""
    exact = [parameter.data for parameter in parameters]
    try:
        for parameter, values in zip(parameters, exact, strict=True):
            parameter.data = values.to(dtype).float()
        yield
    finally:
        for parameter, values in zip(parameters, exact, strict=True):
            parameter.data = values
