"""Model-local ONNX functions: the portable bodies of the custom nodes, built from standard operators.

TensorRT-RTX, ONNX Runtime and TensorRT without the plugin library expand these; TensorRT with the plugin library
replaces the node before it looks at the body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

DOMAIN = "sparsesam"
OPSET = 20
PLUGIN_VERSION = "1"
PLUGIN_ATTRIBUTES: dict[str, Any] = {"plugin_namespace": "", "plugin_version": PLUGIN_VERSION}
"""Without these TensorRT 10.15+ silently prefers the body to a registered plugin."""

_ATTRIBUTE_KIND = {int: ("value_int", onnx.AttributeProto.INT), float: ("value_float", onnx.AttributeProto.FLOAT)}


@dataclass(frozen=True)
class NodeInput:
    """An input of a node: its number of axes, and whether it is an int32 table, not of the graph's type."""

    rank: int
    index: bool = False


class FunctionBody:
    """Collects nodes: ``f.MatMul(a, b)`` appends one and returns the name of its output (a list when ``outputs`` > 1).

    Value names start with the function's name: TensorRT before 10.8 resolved them in the outer graph.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []

    def _fresh(self) -> str:
        return f"{self.name}_{len(self.nodes)}"

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        def append(*inputs: str, outputs: int = 1, **attributes: Any) -> str | list[str]:
            names = [f"{self._fresh()}_{i}" for i in range(outputs)] if outputs > 1 else [self._fresh()]
            self.nodes.append(helper.make_node(op_type, inputs, names, **attributes))
            return names if outputs > 1 else names[0]

        return append

    def ints(self, *values: int) -> str:
        """An int64 vector, as a tensor: onnx before 1.21 infers no shapes from ``value_ints`` inside a function."""
        return self.Constant(value=helper.make_tensor("", onnx.TensorProto.INT64, [len(values)], values))

    def float(self, value: float) -> str:
        """A float32 scalar."""
        return self.Constant(value_float=value)

    def attribute(self, name: str, kind: type) -> str:
        """The value of one of the node's own attributes (int or float) as a scalar."""
        key, proto_type = _ATTRIBUTE_KIND[kind]
        output = self.Constant()
        self.nodes[-1].attribute.append(onnx.AttributeProto(name=key, ref_attr_name=name, type=proto_type))
        return output

    def concat_shape(self, *parts: str | int) -> str:
        """A shape vector from integers and int64 scalars or one-element vectors."""
        vectors = [self.ints(p) if isinstance(p, int) else self.Reshape(p, self.ints(1)) for p in parts]
        return self.Concat(*vectors, axis=0)

    def build(self, inputs: Sequence[str], results: Sequence[str], attributes: Iterable[str]) -> onnx.FunctionProto:
        """The function, its results renamed ``<name>_out<i>``."""
        outputs = [f"{self.name}_out{i}" for i in range(len(results))]
        for result, output in zip(results, outputs, strict=True):
            self.nodes.append(helper.make_node("Identity", [result], [output]))
        return helper.make_function(
            DOMAIN,
            self.name,
            inputs,
            outputs,
            self.nodes,
            [helper.make_opsetid("", OPSET)],
            [*attributes, *PLUGIN_ATTRIBUTES],
        )
