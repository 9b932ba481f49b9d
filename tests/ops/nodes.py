"""One custom node as a model of its own, with its portable body, the way an exported file carries it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import Tensor

from sparsesam_deploy.ops.function_body import DOMAIN, OPSET, PLUGIN_ATTRIBUTES
from sparsesam_deploy.ops.routed_mlp.onnx import function_bodies as routed_mlp_bodies
from sparsesam_deploy.ops.stripe_attention.onnx import function_bodies as stripe_attention_bodies

FUNCTIONS = {body.name: body for body in (*stripe_attention_bodies(), *routed_mlp_bodies())}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ELEMENT = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.int32: TensorProto.INT32,
}
RANK = {"out": 3, "rows": 3, "row_of_token": 2}
REFERENCE_TOLERANCE = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 8e-3}
"""Relative, in L2: the reference computes in float32 and rounds its result once."""
BODY_TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3}
"""Relative, in L2: a body in float16 also rounds what it computes on the way."""


def one_node_model(
    node_type: str, inputs: Mapping[str, Tensor], attributes: Mapping[str, object], outputs: Mapping[str, torch.dtype]
) -> onnx.ModelProto:
    """``node_type`` between graph inputs and graph outputs, whose shapes are left to inference, checked."""
    node = helper.make_node(node_type, list(inputs), list(outputs), domain=DOMAIN, **attributes, **PLUGIN_ATTRIBUTES)
    graph = helper.make_graph(
        [node],
        "one_node",
        [helper.make_tensor_value_info(name, ELEMENT[x.dtype], x.shape) for name, x in inputs.items()],
        [helper.make_tensor_value_info(name, ELEMENT[dtype], [None] * RANK[name]) for name, dtype in outputs.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[FUNCTIONS[node_type]])
    onnx.checker.check_model(model, full_check=True)
    return model


def run_node(
    node_type: str, inputs: Mapping[str, Tensor], attributes: Mapping[str, object], outputs: Mapping[str, torch.dtype]
) -> list[Tensor]:
    """The node's results under ONNX Runtime, which knows it by its body alone."""
    model = one_node_model(node_type, inputs, attributes, outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {name: np.ascontiguousarray(x.detach().numpy()) for name, x in inputs.items()}
    return [torch.from_numpy(result) for result in session.run(None, feed)]
