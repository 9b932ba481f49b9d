"""``encoder.onnx`` cut where the residual stream has a name: the embedding, each block, the neck.

Running one part after the other is running the file. A part is the file's own nodes between two names, in the file's
order and with their own weights. It takes from earlier parts the values that these nodes take.

In float32 the parts give the same bits as one session of the whole file with the same names as outputs. In float16 they
may differ by rounding: not at all on the shipped model, by 6e-4 of the embeddings on a network of random weights. The
cause is probably that ONNX Runtime leaves out roundings inside a session which parts have at their borders.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from ..export.encoder import inner_names, stream_names
from ..export.metadata import load_exported
from ..model.encoder import SparseSamEncoder
from .onnx_runner import check_makes

_STREAM_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Part:
    """Nodes by their numbers in the file, and the names of the values that go in and come out."""

    name: str
    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class EncoderParts:
    """The parts of one file, in order: ``embedding``, ``block 0`` ..., ``neck``.

    What a block decides comes out of its part; a ranking goes into the parts that reuse it.

    Args:
        path: ``encoder.onnx``; its content digest is checked.
        reference: what it was exported from, of which only names and sizes are used.

    Raises:
        InvalidInput, CheckFailed: see `load_exported`; the graph lacks a stream or a decision.
    """

    def __init__(self, path: Path, reference: SparseSamEncoder) -> None:
        self.path = path
        self._model, self.metadata = load_exported(path)
        check_makes(self._model, path, inner_names(reference))
        self._maker = {value: i for i, node in enumerate(self._model.graph.node) for value in node.output}
        streams = stream_names(reference.config.depth)
        results = {"embedding": streams[:1]}
        for index, (block, stream) in enumerate(zip(reference.blocks, streams[1:], strict=True)):
            results[f"block {index}"] = (stream, *block.decision_names)
        results["neck"] = tuple(value.name for value in self._model.graph.output)
        known, parts = {value.name for value in self._model.graph.input}, []
        for name, outputs in results.items():
            parts.append(self._cut(name, outputs, known))
            known |= {*outputs}
        self.parts = tuple(parts)
        self._values = self._value_types(reference, streams)

    def _cut(self, name: str, outputs: tuple[str, ...], known: set[str]) -> Part:
        """The nodes that make ``outputs`` of ``known`` values and of weights."""
        nodes: set[int] = set()
        inputs, wanted = set(), list(outputs)
        while wanted:
            value = wanted.pop()
            maker = self._maker.get(value)
            if value in known:
                inputs.add(value)
            elif maker is not None and maker not in nodes:
                nodes.add(maker)
                wanted += self._model.graph.node[maker].input
        return Part(name, tuple(sorted(nodes)), tuple(sorted(inputs)), outputs)

    def _value_types(self, reference: SparseSamEncoder, streams: Iterable[str]) -> dict[str, onnx.ValueInfoProto]:
        graph = self._model.graph
        batch = graph.input[0].type.tensor_type.shape.dim[0]
        shape = (batch.dim_param or batch.dim_value, reference.perm.numel(), reference.config.embed_dim)
        stream_type = _STREAM_TYPES[self.metadata["dtype"]]
        values = [helper.make_tensor_value_info(name, stream_type, shape) for name in streams]
        values += [helper.make_tensor_value_info(name, TensorProto.INT32, None) for name in reference.decision_names]
        return {value.name: value for value in (*graph.input, *graph.output, *values)}

    def model(self, part: Part) -> onnx.ModelProto:
        """A model of its own, which holds the part's weights and no others."""
        whole = self._model
        model = onnx.ModelProto(ir_version=whole.ir_version, opset_import=whole.opset_import, functions=whole.functions)
        graph = model.graph
        graph.name = part.name
        graph.node.extend(whole.graph.node[index] for index in part.nodes)
        used = {name for node in graph.node for name in node.input}
        graph.initializer.extend(weight for weight in whole.graph.initializer if weight.name in used)
        onnx.load_external_data_for_model(model, str(self.path.parent))
        graph.input.extend(self._values[name] for name in part.inputs)
        graph.output.extend(self._values[name] for name in part.outputs)
        for value in graph.output:  # a broken graph is judged by its numbers, not by its shapes
            value.type.tensor_type.ClearField("shape")
        return model
