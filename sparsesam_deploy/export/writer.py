"""From a torch module to a checked ONNX file."""

from __future__ import annotations

import ast
import gc
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import Sequential
from onnx_ir.passes import common as passes
from torch import Tensor, nn

from ..errors import CheckFailed
from ..ops.function_body import DOMAIN, OPSET
from ..ops.routed_mlp.onnx import function_bodies as routed_mlp_bodies
from ..ops.stripe_attention.onnx import function_bodies as stripe_attention_bodies
from .metadata import DIGEST, content_digest, set_metadata

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
EXTERNAL_DATA_ABOVE = 2**31 - 2**24
"""Bytes of weights above which they go to one file beside the graph; protobuf ends at 2 GiB, graph included."""

_INT32_INDICES = {("Gather", 1), ("GatherElements", 1), ("ScatterElements", 1)}


def export_module(
    make_module: Callable[[], nn.Module],
    inputs: dict[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    metadata: dict[str, Any],
    dynamic_shapes: dict[str, Any] | None = None,
    inner_values: Sequence[str] = (),
    inline: bool = False,
) -> None:
    """Trace a module, attach the bodies of its custom nodes, write ``path`` and check it.

    At most two copies of the weights are alive at once, which is what keeps a ViT-H within 8 GiB.

    Args:
        make_module: makes the module; nobody else may hold it, so that its weights can go once they are in the file.
        inputs: example arguments by name; the names become those of the graph's inputs.
        outputs: names of the graph's outputs.
        metadata: what the file says about itself (see ``metadata.py``).
        dynamic_shapes: as for ``torch.export``.
        inner_values: names for further results of the module after ``outputs``: kept as names of inner values, so
            that a verifier can look at them, but not as outputs.
        inline: put the bodies in the place of the nodes, so that only standard operators are left.

    Raises:
        CheckFailed: onnx.checker refuses the result.
    """
    model = _trace(make_module, inputs, [*outputs, *inner_values], dynamic_shapes)
    del model.graph.outputs[len(outputs) :]
    _name_nodes(model.graph)
    _narrow_index_tables(model.graph)
    _attach_functions(model)
    if inline:
        _inline(model)
    model.producer_name, model.graph.name = "sparsesam-deploy", path.stem
    Sequential(
        passes.DeduplicateInitializersPass(size_limit=1 << 16),
        passes.RemoveUnusedOpsetsPass(),
        passes.ClearMetadataAndDocStringPass(),
    )(model)
    weights = sum(tensor.nbytes for value in model.graph.initializers.values() if (tensor := value.const_value))
    if weights > EXTERNAL_DATA_ABOVE:
        ir.save(model, path, external_data=f"{path.name}.data")
        proto = onnx.load(path, load_external_data=False)
    else:
        proto = ir.to_proto(model)
    del model
    gc.collect()  # the traced program is full of reference cycles, and of weights
    set_metadata(proto, metadata)
    proto.metadata_props.add(key=DIGEST, value=content_digest(proto, path.parent))
    _write(proto, path)
    del proto
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(f"onnx.checker refuses the exported {path.name}: {str(error).splitlines()[0]}.") from error


def _write(model: onnx.ModelProto, path: Path) -> None:
    """Serialize weight by weight, taking ``model`` apart: in one piece it would need twice its size in memory."""
    weights = list(model.graph.initializer)
    del model.graph.initializer[:]
    rest = model.graph.SerializeToString()
    model.ClearField("graph")
    graph_tag = bytes([onnx.ModelProto.GRAPH_FIELD_NUMBER << 3 | 2])
    weight_tag = bytes([onnx.GraphProto.INITIALIZER_FIELD_NUMBER << 3 | 2])
    sizes = [weight.ByteSize() for weight in weights]
    total = len(rest) + sum(1 + len(_varint(size)) + size for size in sizes)
    with open(path, "wb") as file:
        file.write(model.SerializeToString() + graph_tag + _varint(total) + rest)
        for weight, size in zip(weights, sizes, strict=True):
            file.write(weight_tag + _varint(size))
            file.write(weight.SerializeToString())


def _varint(number: int) -> bytes:
    """Protobuf's length of a field: seven bits a byte, lowest first."""
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def _trace(
    make_module: Callable[[], nn.Module],
    inputs: dict[str, Tensor],
    results: list[str],
    dynamic_shapes: dict[str, Any] | None,
) -> ir.Model:
    with _quiet(), torch.inference_mode():
        program = torch.onnx.export(
            make_module().eval(),
            kwargs=inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=results,
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
    assert program is not None  # what torch gives with dynamo=True
    return program.model


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter narrates its internals on stdout and in warnings; failures still raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        # onnxscript before 0.7 prints, in whatever logging: into the JSON that --json has there.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _name_nodes(graph: ir.Graph) -> None:
    """Name every node after the module it came from, so that profiles and audits read as the model does."""
    seen: Counter[str] = Counter()
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        module = next((scope for scope in reversed(scopes[:-1]) if scope), "graph")
        name = f"{module}.{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def _narrow_index_tables(graph: ir.Graph) -> None:
    """Back to int32: the exporter folds the cast that torch's index_select asks for into the tables."""
    for value in graph.initializers.values():
        gathered = all((use.node.op_type, use.idx) in _INT32_INDICES for use in value.uses())
        if value.const_value is not None and value.const_value.dtype == ir.DataType.INT64 and gathered:
            table = value.const_value.numpy()
            value.const_value = ir.tensor(table.astype("int32"), name=value.name)
            value.dtype = ir.DataType.INT32


def _attach_functions(model: ir.Model) -> None:
    used = {node.op_type for node in model.graph if node.domain == DOMAIN}
    for body in (*stripe_attention_bodies(), *routed_mlp_bodies()):
        if body.name in used:
            function = ir.from_proto(body)
            model.functions[function.identifier()] = function


def _inline(model: ir.Model) -> None:
    """Put bodies in the place of nodes; what a body brings is named after the node and its place in the body."""
    names: list[str | None] = []
    for node in model.graph:
        body = model.functions.get(node.op_identifier())
        names += [f"{node.name}.{inner.op_type}_{index}" for index, inner in enumerate(body or ())] or [node.name]
    passes.InlinePass()(model)
    for node, name in zip(model.graph, names, strict=True):
        node.name = name
