"""What an ONNX file says of the engine to build: inputs and outputs, the precision of its products, custom nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, inliner, shape_inference

from ..errors import InvalidInput
from ..export.metadata import PREFIX
from ..export.options import Dtype
from ..ops.function_body import DOMAIN

DTYPE_KEY = PREFIX + "dtype"
TENSORRT_DTYPE: dict[Dtype, str] = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}
"""``--dtype`` -> the name of TensorRT's ``DataType``."""

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "Attention"})
"""ONNX operators whose precision decides what an engine costs and how exact it is."""

_DATA_TYPE: dict[int, str] = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT8: "INT8",
}
FLOAT32_INPUTS = frozenset({"point_coords"})
"""Inputs whose products are float32 in every precision: float16 cannot tell neighbouring pixels apart."""

_SMALL_BYTES = 1024  # shape inference reads the contents of shape vectors, never of weights
_REEXPORT = "export it again with `sparsesam-export onnx`"


@dataclass(frozen=True)
class TensorFacts:
    """A graph input or output: ``dtype`` as TensorRT names it, ``shape`` with -1 where a dimension is dynamic.

    ``axes`` are the names of the dynamic dimensions, in order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CustomNode:
    """A node of this project's domain and the plugin it asks for."""

    name: str
    op_type: str
    plugin_version: str
    plugin_namespace: str


@dataclass(frozen=True)
class GraphFacts:
    """What the built network is compared with.

    Nodes have the names that TensorRT's parser gives them: their own, else ``node_of_<first output>``.

    ``products`` gives the data type of each product's first input; ``cast_products`` are those whose float32 data was
    cast up from float16 or bfloat16 inside the graph, or comes from one of `FLOAT32_INPUTS`: there float32 is a
    decision of the export, not an oversight.
    """

    dtype: Dtype
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    custom_nodes: tuple[CustomNode, ...]
    products: dict[str, str]
    cast_products: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> GraphFacts:
        """Read an ONNX file of this project.

        Raises:
            InvalidInput: the file is missing, is no ONNX graph, does not say its precision, or lacks external data.
        """
        model = _load(path)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        dtype = next((name for name in TENSORRT_DTYPE if name == metadata.get(DTYPE_KEY)), None)
        if dtype is None:
            raise InvalidInput(f"{path} has no valid {DTYPE_KEY} in its metadata; {_REEXPORT}.")
        weights = {tensor.name for tensor in model.graph.initializer}
        products, cast_products = _products(model)
        return cls(
            dtype=dtype,
            inputs=tuple(_tensor(value) for value in model.graph.input if value.name not in weights),
            outputs=tuple(_tensor(value) for value in model.graph.output),
            custom_nodes=tuple(_custom_node(node) for node in model.graph.node if node.domain == DOMAIN),
            products=products,
            cast_products=cast_products,
        )


def node_name(node: onnx.NodeProto) -> str:
    """The name by which TensorRT's parser calls a node."""
    return node.name or f"node_of_{node.output[0]}"


def _load(path: Path) -> onnx.ModelProto:
    """The model without the contents of its weights."""
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise InvalidInput(
            f"cannot read {path}: {(error.strerror or str(error)).lower()}; name an ONNX file."
        ) from error
    except DecodeError as error:
        raise InvalidInput(f"{path} is not an ONNX file, or is cut short; {_REEXPORT}.") from error
    if not model.graph.output:  # protobuf, and TensorRT's parser after it, accept many files that are no ONNX
        raise InvalidInput(f"{path} holds no ONNX graph; {_REEXPORT}.")
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            _check_external(path, tensor)
        elif len(tensor.raw_data) > _SMALL_BYTES:
            tensor.ClearField("raw_data")
    return model


def _check_external(path: Path, tensor: TensorProto) -> None:
    entry = {item.key: item.value for item in tensor.external_data}
    file = path.parent / entry["location"]
    size = file.stat().st_size if file.is_file() else None
    if size is None:
        raise InvalidInput(f"{path} keeps its weights in {file}, which is missing; put it there or {_REEXPORT}.")
    if size < int(entry.get("offset", 0)) + int(entry.get("length", 0)):
        raise InvalidInput(f"{file}, which holds the weights of {path}, is cut short at {size} bytes; {_REEXPORT}.")


def _tensor(value: onnx.ValueInfoProto) -> TensorFacts:
    tensor = value.type.tensor_type
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    axes = tuple(dim.dim_param for dim in tensor.shape.dim if not dim.HasField("dim_value"))
    return TensorFacts(value.name, _data_type(tensor.elem_type), dims, axes)


def _data_type(number: int) -> str:
    return _DATA_TYPE.get(number) or TensorProto.DataType.Name(number)


def _custom_node(node: onnx.NodeProto) -> CustomNode:
    attributes = {item.name: item.s.decode() for item in node.attribute if item.type == onnx.AttributeProto.STRING}
    version, namespace = attributes.get("plugin_version", "1"), attributes.get("plugin_namespace", "")
    return CustomNode(node_name(node), node.op_type, version, namespace)


def _products(model: onnx.ModelProto) -> tuple[dict[str, str], frozenset[str]]:
    """Data type of each product by node name, and the names of those that compute in float32 because of a Cast."""
    names = list(_expanded_names(model.graph.node, {(f.domain, f.name): f for f in model.functions}))
    graph = shape_inference.infer_shapes(inliner.inline_local_functions(model)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    decided = {value.name: value.name in FLOAT32_INPUTS for value in graph.input} | {
        tensor.name: True for tensor in graph.initializer
    }
    products: dict[str, str] = {}
    cast_products: set[str] = set()
    for name, node in zip(names, graph.node, strict=True):
        decision = _is_decision(node, types) or _inherits_decision(node, types, decided)
        decided |= dict.fromkeys(node.output, decision)
        if node.op_type in PRODUCTS and node.input[0] in types:
            products[name] = _data_type(types[node.input[0]])
            if decision and products[name] == "FLOAT":
                cast_products.add(name)
    return products, frozenset(cast_products)


def _is_decision(node: onnx.NodeProto, types: dict[str, int]) -> bool:
    """Whether a node makes its output independent of how precise the graph's inputs are."""
    if node.op_type in ("Cast", "CastLike"):
        return types.get(node.input[0]) in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return node.op_type in ("Shape", "Size")


def _inherits_decision(node: onnx.NodeProto, types: dict[str, int], decided: dict[str, bool]) -> bool:
    floats = [value for value in node.input if types.get(value) == TensorProto.FLOAT]
    return all(decided[value] for value in floats or node.input if value)


def _expanded_names(
    nodes: Iterable[onnx.NodeProto], functions: Mapping[tuple[str, str], onnx.FunctionProto]
) -> Iterator[str]:
    """Node names in the order in which inlining leaves the nodes, which itself renames them."""
    for node in nodes:
        function = functions.get((node.domain, node.op_type))
        yield from _expanded_names(function.node, functions) if function else (node_name(node),)
