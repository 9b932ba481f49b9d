"""The attributes of a really exported encoder, as a real NVIDIA parser hands them to our creators."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import onnx
import pytest
from onnx import helper

from checks.plugin_host import LIBRARY
from sparsesam_deploy.model.config import PRESETS, ROUTINGS
from sparsesam_deploy.ops.function_body import DOMAIN
from sparsesam_deploy.ops.geometry import GRID_SIZE
from tests.export.models import VARIANTS, export

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX, whose parser this test asks, is not installed")
PARSE = """
import sys, tensorrt_rtx as trt
trt.get_plugin_registry().load_library(sys.argv[1])
logger = trt.Logger(trt.Logger.ERROR)
for path in sys.argv[2:]:
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    assert not trt.OnnxParser(network, logger).parse_from_file(path)
"""


def single_nodes(model: onnx.ModelProto, folder) -> dict[str, onnx.NodeProto]:
    """Each custom node in a file of its own, with its function body, its constants, and inputs for what is computed."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    types = {value.name: value for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    for name in (name for node in model.graph.node for name in node.output if name.startswith("row_of_token")):
        types.setdefault(name, helper.make_tensor_value_info(name, onnx.TensorProto.INT32, [1, GRID_SIZE**2]))
    files = {}
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        graph = helper.make_graph(
            [node],
            "one_node",
            [types[name] for name in node.input if name not in constants],
            [onnx.ValueInfoProto(name=name) for name in node.output],
            [constants[name] for name in node.input if name in constants],
        )
        functions = [function for function in model.functions if function.name == node.op_type]
        path = folder / f"{len(files)}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=model.opset_import, ir_version=10, functions=functions), path)
        files[str(path)] = node
    return files


SPARSITIES = {
    "paper": PRESETS["paper"],
    **{routing: VARIANTS[f"lattice-{routing}"] for routing in ROUTINGS},
}


@pytest.mark.parametrize("sparsity", SPARSITIES.values(), ids=SPARSITIES)
def test_every_attribute_arrives(sparsity, build, tmp_path):
    files = single_nodes(export(tmp_path, sparsity).load(), tmp_path)
    assert files
    result = subprocess.run(
        [sys.executable, "-c", PARSE, build / "libparser_probe.so", *files],
        env={**os.environ, "SPARSESAM_PLUGIN_LIBRARY": str(build / LIBRARY)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    probes = [line for line in result.stdout.splitlines() if line.startswith("PROBE")]
    for line, node in zip(probes, files.values(), strict=True):
        words = line.split()
        assert words[1] == node.op_type and words[-1] == "accepted"
        arrived = {key: (kind, float(value)) for key, kind, value in re.findall(r"(\w+):(\w+)=(\S+)", line)}
        kinds = {onnx.AttributeProto.INT: "int32", onnx.AttributeProto.FLOAT: "float32"}
        expected = {
            attribute.name: (kinds[attribute.type], pytest.approx(helper.get_attribute_value(attribute), rel=1e-5))
            for attribute in node.attribute
            if not attribute.name.startswith("plugin_")
        }
        assert arrived == expected
