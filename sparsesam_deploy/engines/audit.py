"""Compare the network that a builder parsed with the ONNX graph: precision, inputs and outputs, plugins."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ..export.options import Dtype
from .graph import TENSORRT_DTYPE, GraphFacts, TensorFacts

PRODUCT_LAYERS = frozenset({"MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION", "EINSUM", "ATTENTION_INPUT"})
PLUGIN_LAYERS = frozenset({"PLUGIN", "PLUGIN_V2", "PLUGIN_V3"})
_FLOATS = frozenset(TENSORRT_DTYPE.values())

Realisation = Literal["plugin", "function body"]


class AuditReport(BaseModel):
    """What was built, and in ``findings`` where it differs from the graph.

    ``precision`` counts the products (matrix multiplications, convolutions) by layer type and data type;
    ``fp32_islands`` are products the graph itself casts to float32; ``custom_nodes`` says what each became.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: Dtype
    layers: dict[str, int]
    precision: dict[str, dict[str, int]]
    fp32_islands: tuple[str, ...]
    custom_nodes: dict[str, Realisation]
    findings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.findings


def audit_network(network: Any, asked: GraphFacts, plugins: bool) -> AuditReport:
    """Compare a parsed TensorRT network with the ONNX graph it came from.

    Networks are strongly typed, so a product computes in the data type of its inputs. ``plugins`` says whether the
    custom nodes should have become plugin layers or, on purpose, their function bodies.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    products = [layer for layer in layers if layer.type.name in PRODUCT_LAYERS and _float_types(layer)]
    precision: dict[str, Counter[str]] = {}
    for layer in products:
        precision.setdefault(layer.type.name, Counter())["+".join(sorted(_float_types(layer)))] += 1
    custom_nodes = _custom_nodes(layers, asked)
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    return AuditReport(
        dtype=asked.dtype,
        layers=dict(sorted(Counter(layer.type.name for layer in layers).items())),
        precision={kind: dict(counts) for kind, counts in precision.items()},
        fp32_islands=tuple(_label(layer) for layer in products if _is_island(layer, asked)),
        custom_nodes=custom_nodes,
        findings=(
            *_tensor_findings("input", inputs, asked.inputs),
            *_tensor_findings("output", outputs, asked.outputs),
            *(finding for layer in products if (finding := _precision_finding(layer, asked))),
            *_plugin_findings(custom_nodes, asked, plugins),
        ),
    )


def _note(layer: Any) -> list[str]:
    """The ONNX node that a layer stands for, then the nodes whose function bodies it lies in, innermost first.

    The parser notes them in the layer's metadata as ``[ONNX Layer: <node> | <caller> (<function>) ...]``.
    """
    note = re.fullmatch(r"\[ONNX Layer: (.*)]", layer.metadata)
    return note.group(1).split(" | ") if note else [layer.name]


def _label(layer: Any) -> str:
    return " in ".join(_note(layer))


def _float_types(layer: Any) -> set[str]:
    tensors = [layer.get_input(i) for i in range(layer.num_inputs)]
    tensors += [layer.get_output(i) for i in range(layer.num_outputs)]
    return {tensor.dtype.name for tensor in tensors if tensor is not None} & _FLOATS


def _is_island(layer: Any, asked: GraphFacts) -> bool:
    in_fp32 = _float_types(layer) == {"FLOAT"} and asked.dtype != "fp32"
    return in_fp32 and _note(layer)[0] in asked.cast_products


def _precision_finding(layer: Any, asked: GraphFacts) -> str | None:
    types, wanted = _float_types(layer), TENSORRT_DTYPE[asked.dtype]
    in_graph = asked.products.get(_note(layer)[0], wanted)
    computes = f"{_label(layer)} ({layer.type.name}) computes in {' and '.join(sorted(types))}"
    if types != {in_graph}:
        return f"{computes}, but the graph asks for {in_graph}"
    if in_graph != wanted and not _is_island(layer, asked):
        return f"{computes}, but {asked.dtype} was asked for and no Cast leads there"
    return None


def _tensor_findings(kind: str, built: list[Any], asked: tuple[TensorFacts, ...]) -> Iterator[str]:
    names, wanted = [tensor.name for tensor in built], [tensor.name for tensor in asked]
    if names != wanted:
        yield f"the {kind}s are {', '.join(names)}, but the graph has {', '.join(wanted)}"
        return
    for tensor, facts in zip(built, asked, strict=True):
        if tensor.dtype.name != facts.dtype:
            yield f"{kind} {facts.name} is {tensor.dtype.name}, but the graph has {facts.dtype}"
        shape = tuple(tensor.shape)
        known = [(a, b) for a, b in zip(shape, facts.shape, strict=False) if -1 not in (a, b)]
        if len(shape) != len(facts.shape) or any(a != b for a, b in known):
            yield f"{kind} {facts.name} has shape {shape}, but the graph has {facts.shape}"


def _custom_nodes(layers: list[Any], asked: GraphFacts) -> dict[str, Realisation]:
    plugins = {_note(layer)[0] for layer in layers if layer.type.name in PLUGIN_LAYERS}
    return {node.name: "plugin" if node.name in plugins else "function body" for node in asked.custom_nodes}


def _plugin_findings(built: dict[str, Realisation], asked: GraphFacts, plugins: bool) -> Iterator[str]:
    for node in asked.custom_nodes:
        if plugins and built[node.name] == "function body":
            yield (
                f"{node.name} ({node.op_type}) fell back to its function body, because the plugin library has no "
                f"{node.op_type} version {node.plugin_version} in namespace {node.plugin_namespace!r}"
            )
        if not plugins and built[node.name] == "plugin":
            yield f"{node.name} ({node.op_type}) became a plugin, but its function body was asked for"
