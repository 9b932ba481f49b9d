"""``--inline``: the same encoder in standard operators alone, for programs that know no functions, like OpenVINO."""

from __future__ import annotations

import onnx
import pytest
import torch

from sparsesam_deploy.engines.builder import build_engine
from sparsesam_deploy.engines.options import EngineOptions
from sparsesam_deploy.export.encoder import OUTPUT, inner_names
from sparsesam_deploy.model.config import PRESETS, SparsityConfig
from sparsesam_deploy.ops.function_body import OPSET
from sparsesam_deploy.parity.blocks import StageError, first_failure, stage_errors
from sparsesam_deploy.parity.decisions import decisions
from tests.comparison import relative_error
from tests.export.models import Exported, export, random_image, run_openvino
from tests.parity.faults import Fault, write_broken
from tests.parity.judging import assert_healthy, judge

VARIANTS = {  # every node type is in one of them
    "default": PRESETS["default"],
    "paper": PRESETS["paper"],
    "static": SparsityConfig(0.25, 0.5, 0.4, order="interleaved", routing="skip-sobel"),
    "quadtree": SparsityConfig(
        1.0, (1.0, 0.2, 0.3, 0.6), 0.6, routing="share-quadtree", windowed_routing="share-variance"
    ),
}
DYNAMIC = (1, 2, 4)
PACK = "encoder.blocks.1.mlp.RoutedMlpPackShareQuadtree"


@pytest.fixture(scope="module", params=VARIANTS)
def inlined(request, tmp_path_factory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    return export(folder, VARIANTS[request.param], batch=DYNAMIC, inline=True)


def test_only_standard_operators_are_left(inlined):
    model = inlined.load()
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": OPSET}
    assert not model.functions and {node.domain for node in model.graph.node} == {""}


@torch.inference_mode()
def test_openvino_computes_the_encoder(inlined):
    """Block by block, and as a whole where torch decides near-ties of rankings and scores as OpenVINO did."""
    encoder, image, model = inlined.encoder, random_image(), inlined.load()
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner_names(encoder))
    outputs = run_openvino(model, {"image": image.numpy()})
    stages = [StageError(name, error, error) for name, error in stage_errors(encoder, image, outputs)]
    assert first_failure(stages, "fp32") is None
    *_, last = encoder.streams(image, decisions(encoder, outputs))
    assert relative_error(torch.from_numpy(outputs[OUTPUT]), encoder.finish(last)) <= 1e-5


def test_verify_accepts_it(tmp_path):
    exported = export(tmp_path, VARIANTS["quadtree"], "bf16", inline=True)
    halves = ("0 attention", "1", "2 attention", "2", "3")
    assert_healthy(exported, "bf16", [f"block {half} routing" for half in halves])


def nodes_of_block_1(model: onnx.ModelProto, op_type: str) -> list[onnx.NodeProto]:
    """Nodes that the body of the first routed MLP brought."""
    return [node for node in model.graph.node if node.name.startswith(f"{PACK}.{op_type}_")]


def merge_the_most_varied(model: onnx.ModelProto, block: int) -> None:
    """The choice of squares takes those of least variance for those of most."""
    nodes_of_block_1(model, "TopK")[0].attribute.append(onnx.helper.make_attribute("largest", 0))


def merge_one_less(model: onnx.ModelProto, block: int) -> None:
    """One square's groups have rows of their own."""
    _, num_merged = [node for node in nodes_of_block_1(model, "Constant") if node.attribute[0].name == "value_int"][:2]
    num_merged.attribute[0].i -= 1
    del model.graph.value_info[:]


@pytest.mark.parametrize("damage", [merge_the_most_varied, merge_one_less])
def test_verify_refuses_a_fault_in_it(damage, tmp_path):
    healthy = export(tmp_path, VARIANTS["quadtree"], inline=True)
    fault = Fault("inlined", 1, damage, "routing")
    broken = write_broken(tmp_path / "broken.onnx", healthy.path, [fault])
    assert first_failure(judge(healthy, broken).stages, "fp32").startswith("block 1 routing computes something else: ")


def test_tensorrt_rtx_builds_it(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    exported = export(tmp_path, VARIANTS["quadtree"], "fp16", inline=True)
    built = build_engine(exported.path, "tensorrt-rtx", EngineOptions(), lambda share, words="": None)
    assert built.audit.passed and built.audit.custom_nodes == {}
