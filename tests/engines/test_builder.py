"""Real engines, built by TensorRT-RTX without a GPU, and what it refuses to build."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from sparsesam_deploy.engines.builder import build_engine
from sparsesam_deploy.engines.options import EngineOptions
from sparsesam_deploy.errors import CheckFailed, InvalidInput

from .graphs import (
    DIM,
    build,
    chain,
    dynamic_batch,
    graph,
    image_batch,
    matmul_softmax,
    node,
    save,
    silent,
    stripe_attention,
    weight,
)

RTX = pytest.importorskip("tensorrt_rtx")


# --- engines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_rtx_builds_every_precision_for_all_its_gpus(tmp_path, dtype):
    built = build(matmul_softmax(dtype), tmp_path)
    assert built.data.nbytes > 10_000
    assert built.audit.passed
    assert built.audit.dtype == dtype
    assert (built.builder, built.builder_version) == ("tensorrt-rtx", RTX.__version__)
    assert built.compute_capabilities == ("SM80", "SM86", "SM89", "SM120")
    assert built.plugins == ()


def test_compute_capabilities_reach_the_builder(tmp_path):
    one = build(image_batch(), tmp_path, compute_capabilities=("SM120",))
    assert one.compute_capabilities == ("SM120",)
    assert bytes(one.data) != bytes(build(image_batch(), tmp_path).data)


def test_rtx_builds_are_reproducible(tmp_path):
    first, second = (bytes(build(image_batch(), tmp_path).data) for _ in range(2))
    assert first == second


def test_fp32_is_not_computed_in_tf32(tmp_path):
    """RTX writes TF32 into the engine when it is left on, so the bytes differ from those of a default build."""
    path = save(matmul_softmax("fp32"), tmp_path)
    logger = RTX.Logger(RTX.Logger.ERROR)
    default = RTX.Builder(logger)
    network = default.create_network(0)
    parser = RTX.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path))
    config = default.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(RTX.ComputeCapability.SM80, 0)
    with_tf32 = bytes(default.build_serialized_network(network, config))
    ours = build_engine(path, "tensorrt-rtx", EngineOptions(compute_capabilities=("SM80",)), silent)
    assert bytes(ours.data) != with_tf32


def test_function_bodies_are_built_on_purpose(tmp_path):
    built = build(stripe_attention(), tmp_path)
    assert built.audit.custom_nodes == {"block0": "function body", "block1": "function body"}
    islands = tuple(f"scores in block{i} (StripeAttention)" for i in (0, 1))
    assert built.audit.fp32_islands == islands


def test_dynamic_batch_takes_the_profile(tmp_path):
    assert build(dynamic_batch(), tmp_path, batch=(1, 2, 4)).data.nbytes > 10_000


def test_external_weights_are_found(tmp_path):
    path = tmp_path / "encoder.onnx"
    onnx.save(matmul_softmax(), path, save_as_external_data=True, location="encoder.onnx.data", size_threshold=0)
    assert build_engine(path, "tensorrt-rtx", EngineOptions(), silent).data.nbytes > 10_000


def test_progress_grows_and_names_what_happens(tmp_path):
    seen = []
    build(chain(40), tmp_path, advance=lambda share, words: seen.append((share, words)))
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert seen[0] == (0.0, "reading the graph")
    assert seen[-1] == (1.0, "built")
    assert any(0.0 < share < 1.0 for share in shares)
    assert len({words for _, words in seen}) > 2


def test_functions_called_twice_are_nothing_to_warn_of(tmp_path):
    assert build(stripe_attention(), tmp_path).warnings == ()


def test_warnings_are_collected_not_printed(tmp_path, capfd):
    nodes = [node("TopK", ["x", "k"], ["y", "i"], axis=-1)]
    model = graph(nodes, [("x", [1, 256])], [("y", [1, 8])], [onnx.numpy_helper.from_array(np.array([8]), "k")])
    model.graph.output.append(onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [1, 8]))
    assert build(model, tmp_path).warnings == ("Make sure output i has Int64 binding",)
    assert capfd.readouterr() == ("", "")


# --- what the builders refuse ------------------------------------------------------------------------------------


def without_function():
    return stripe_attention(function=False)


def mixed_types():
    nodes = [node("MatMul", ["x", "w"], ["y"], name="product")]
    return graph(nodes, [("x", [1, DIM], "fp32")], [("y", [1, DIM], "fp32")], [weight("w", (DIM, DIM))])


def large_topk():
    nodes = [node("TopK", ["x", "k"], ["y", "i"], axis=-1)]
    k = onnx.numpy_helper.from_array(np.array([4096]), "k")
    return graph(nodes, [("x", [1, 8192])], [("y", [1, 4096])], [k])


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            without_function,
            r"cannot parse node block0 \(StripeAttention\) of \S+encoder.onnx: .*(Plugin not found|is not supported)",
        ),
        (mixed_types, r"cannot parse node product \(MatMul\) of .* must have same input types"),
        (large_topk, r"could not build \S+encoder.onnx: .*K exceeds the maximum value allowed \(3840\)"),
    ],
)
def test_a_refused_graph_names_node_and_reason(tmp_path, model, sentence):
    with pytest.raises(CheckFailed, match=sentence + ".*; export it again with `sparsesam-export onnx` or") as caught:
        build(model(), tmp_path)
    assert "\n" not in str(caught.value)
    assert "cudaError" not in str(caught.value)


def test_a_workspace_too_small_is_the_builders_reason(tmp_path):
    with pytest.raises(CheckFailed, match="workspace"):
        build(matmul_softmax(), tmp_path, workspace_mib=1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"workspace_mib": 0}, "workspace_mib 0 is out of range; give 1 or more"),
        ({"builder_optimization_level": 6}, "builder_optimization_level 6 is out of range; give 0 to 5"),
        ({"compute_capabilities": ()}, "compute capabilities '' are empty"),
        ({"compute_capabilities": ("SM80", "SM80")}, "'SM80,SM80' are empty or name one twice"),
    ],
)
def test_options_outside_their_range(options, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        EngineOptions(**options)


@pytest.mark.parametrize(
    ("builder", "options", "sentence"),
    [
        ("tensorrt-rtx", {"timing_cache": "t.cache"}, "tensorrt-rtx has no --timing-cache; leave it out"),
        ("tensorrt-rtx", {"builder_optimization_level": 3}, "tensorrt-rtx has no --builder-optimization-level"),
        ("tensorrt-rtx", {"version_compatible": True}, "tensorrt-rtx has no --version-compatible"),
        ("tensorrt-rtx", {"compute_capabilities": ("SM90",)}, r"cannot build for .* SM90; choose among .*SM120"),
        ("tensorrt-rtx", {"compute_capabilities": ("CURRENT",)}, "cannot build for compute capability CURRENT"),
        ("tensorrt-rtx", {"plugin_library": "p.so"}, "tensorrt-rtx cannot build the plugins of p.so"),
        ("tensorrt", {"compute_capabilities": ("SM89",)}, "tensorrt builds for the GPU it finds; leave out"),
        ("tensorrt-rtx", {"batch": (1, 2, 4)}, "batch 1,2,4 is not the fixed one of .*encoder.onnx; give 1,1,1 or"),
    ],
)
def test_what_a_builder_cannot_honour_is_refused(tmp_path, builder, options, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        build(image_batch(), tmp_path, builder, **options)


def test_an_unknown_dynamic_axis_is_refused(tmp_path):
    model = graph([node("Relu", ["x"], ["y"])], [("x", [1, "frames", 2])], [("y", [1, "frames", 2])])
    with pytest.raises(
        InvalidInput, match=r"input x of \S+ has the dynamic axis frames; only batch, num_prompts, num_po"
    ):
        build(model, tmp_path)


def other_precision(folder):
    model = matmul_softmax("fp32")
    onnx.helper.set_model_props(model, {"sparsesam.dtype": "fp16"})
    return save(model, folder)


def test_an_engine_of_another_precision_is_not_built(tmp_path):
    with pytest.raises(CheckFailed, match=r"product \(MATRIX_MULTIPLY\) computes in FLOAT, but fp16 was asked for"):
        build_engine(other_precision(tmp_path), "tensorrt-rtx", EngineOptions(), silent)
