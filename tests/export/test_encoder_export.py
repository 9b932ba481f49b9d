"""``encoder.onnx`` of every variant: equal to torch, and nothing in it that a builder refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from sparsesam_deploy.export.encoder import HQ_OUTPUT, OUTPUT, stream_names
from sparsesam_deploy.model.checkpoint import load_nano
from sparsesam_deploy.model.config import DENSE, PRESETS, ROUTINGS
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.ops.function_body import DOMAIN, OPSET
from sparsesam_deploy.parity.onnx_runner import OnnxRunner
from sparsesam_deploy.parity.samples import shipped_samples
from tests.comparison import relative_error
from tests.export.models import (
    TINY_HQ,
    VARIANTS,
    export,
    forbidden_nodes,
    global_outputs,
    inlined,
    random_image,
    value_types,
    wide_integer_tables,
)
from tests.helpers import TINY

TOLERANCE = 1e-5
DYNAMIC = (
    "interleaved-skip-group-rank",
    "windows-ranked",
    "windows-static",
    "windows-shared",
)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in DYNAMIC])
@torch.inference_mode()
def test_every_variant_in_fp32(name: str, tmp_path: Path):
    exported = export(tmp_path, VARIANTS[name])
    (out,) = exported.run(random_image())
    assert relative_error(out, exported.encoder(random_image())) <= TOLERANCE
    model = exported.load()
    assert_deployable(model)
    assert [value.name for value in model.graph.output] == [OUTPUT]
    assert {*stream_names(TINY.depth)} <= {output for node in model.graph.node for output in node.output}


def assert_deployable(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": OPSET, DOMAIN: 1}
    assert forbidden_nodes(model) == []
    assert wide_integer_tables(model) == []
    functions = {function.name: function for function in model.functions}
    custom = [node for node in model.graph.node if node.domain]
    assert {node.op_type for node in custom} == set(functions)
    assert all(node.op_type.startswith(("StripeAttention", "RoutedMlp")) for node in custom)
    for node in custom:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert attributes["plugin_namespace"] == b"", node.name
        assert attributes["plugin_version"] == b"1", node.name
        assert set(attributes) == set(functions[node.op_type].attribute), node.name
    assert not [inner.name for function in functions.values() for inner in function.node if inner.domain]


@pytest.mark.parametrize("name", DYNAMIC)
@torch.inference_mode()
def test_dynamic_batch(name: str, tmp_path: Path):
    """Every image of a batch is computed as if it were alone, and alone as torch does."""
    exported, images = export(tmp_path, VARIANTS[name], batch=(1, 2, 4)), random_image(2)
    assert_deployable(exported.load())
    (together,) = exported.run(images)
    assert together.shape == (2, 256, 64, 64)
    for index in (0, 1):
        (alone,) = exported.run(images[index : index + 1])
        assert relative_error(together[index : index + 1], alone) <= TOLERANCE
        assert relative_error(alone, exported.encoder(images[index : index + 1])) <= TOLERANCE


def test_static_batch_of_two(tmp_path: Path):
    exported = export(tmp_path, PRESETS["default"], batch=(2, 2, 2))
    (image,) = exported.load().graph.input
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim] == [2, 3, 1024, 1024]
    assert exported.run(random_image(2))[0].shape == (2, 256, 64, 64)


@pytest.mark.parametrize(
    ("dtype", "name"),
    (
        *(("fp16", f"lattice-{routing}") for routing in ROUTINGS),
        ("fp16", "interleaved-skip-group-rank"),
        ("fp16", "paper"),
        ("bf16", "lattice-share-quadtree"),
        ("bf16", "paper"),
        ("bf16", "windows-shared"),
    ),
)
@torch.inference_mode()
def test_half_precision_is_in_the_graph(dtype: str, name: str, tmp_path: Path):
    exported = export(tmp_path, VARIANTS[name], dtype)
    model = exported.load()
    assert_deployable(model)
    half = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[dtype]
    wide = {w.name for w in model.graph.initializer if w.data_type == TensorProto.FLOAT}
    # Convolutions have no bfloat16 kernel: their weights are float32 after a Cast, or are stored so.
    allowed = (
        {name for node in model.graph.node if node.op_type == "Conv" for name in node.input}
        if dtype == "bf16"
        else set()
    )
    # Scalars, and the four member offsets of a group in a float32 ranking, are no weights.
    assert {name for name in wide - allowed if np.prod(_dims(model, name)) > 4} == set()
    types = value_types(inlined(model))
    products = {n.name: types[n.input[0]] for n in model.graph.node if n.op_type in ("MatMul", "Gemm")}
    assert products
    assert set(products.values()) == {half}
    assert {types[name] for name in stream_names(TINY.depth)} == {half}
    assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {
        TensorProto.FLOAT
    }
    # The same graph in float32, half's rounding left out, is the torch module with rounded weights: 2^-9 in bfloat16.
    found = OnnxRunner(exported.path, float32=True).run({"image": random_image().numpy()})[OUTPUT]
    assert (
        relative_error(torch.from_numpy(found), exported.encoder(random_image())) <= {"fp16": 0.01, "bf16": 0.08}[dtype]
    )


def _dims(model: onnx.ModelProto, name: str) -> list[int]:
    return next(list(weight.dims) for weight in model.graph.initializer if weight.name == name)


@pytest.mark.parametrize("dtype", ("fp32", "fp16", "bf16"))
def test_norms_are_layer_normalizations(dtype: str, tmp_path: Path):
    model = export(tmp_path, DENSE, dtype).load()
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("LayerNormalization") == 2 * TINY.depth + 2
    assert not {"ReduceMean", "Pow", "Sqrt", "InstanceNormalization"} & set(kinds)
    neck = [node.op_type for node in model.graph.node if node.name.startswith("encoder.neck.norm")]
    assert neck == ["LayerNormalization"] * 2
    stash = [
        a.i
        for node in model.graph.node
        if node.op_type == "LayerNormalization"
        for a in node.attribute
        if a.name == "stash_type"
    ]
    assert set(stash) <= {TensorProto.FLOAT}  # statistics in float32, which also is the default


@pytest.mark.parametrize("gelu", ("erf", "tanh"))
@torch.inference_mode()
def test_gelu(gelu: str, tmp_path: Path):
    exported = export(tmp_path, PRESETS["default"], gelu=gelu)
    nodes = [node for node in exported.load().graph.node if node.op_type == "Gelu"]
    modes = {onnx.helper.get_node_attr_value(node, "approximate") for node in nodes if node.attribute} or {b"none"}
    assert len(nodes) == TINY.depth
    assert modes == {b"none" if gelu == "erf" else b"tanh"}
    assert relative_error(exported.run(random_image())[0], exported.encoder(random_image())) <= TOLERANCE


@pytest.mark.parametrize("batch", ((1, 1, 1), (1, 2, 4)), ids=("static", "dynamic"))
@torch.inference_mode()
def test_hq_intermediate_embeddings(batch: tuple[int, int, int], tmp_path: Path):
    exported = export(tmp_path, PRESETS["default"], batch=batch, config=TINY_HQ)
    assert [value.name for value in exported.load().graph.output] == [OUTPUT, HQ_OUTPUT]
    image = random_image(2 if batch[2] > 1 else 1)
    out, interm = exported.run(image)
    streams = list(exported.encoder.streams(image))[1:]
    assert interm.shape == (2, len(image), 64, 64, TINY.embed_dim)
    assert relative_error(out, exported.encoder(image)) <= TOLERANCE
    assert relative_error(interm, global_outputs(exported.encoder, streams)) <= TOLERANCE
    assert relative_error(interm[1], exported.encoder.to_grid(streams[3])) <= TOLERANCE


@torch.inference_mode()
def test_nano_in_fp16_on_real_images(built_as_the_readme_says: Path):
    """No overflow anywhere in the residual stream, and an embedding that fp16 blurs by little."""
    loaded = load_nano()
    encoder = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, PRESETS["default"]).eval()
    streams = stream_names(loaded.config.depth)
    runner = OnnxRunner(built_as_the_readme_says / "engines" / "built" / "nano" / "encoder.onnx", streams)
    for sample in shipped_samples():
        image = sample.preprocessed().tensor
        results = runner.run({"image": image.numpy()})
        assert [name for name in (OUTPUT, *streams) if not np.isfinite(results[name]).all()] == []
        assert relative_error(torch.from_numpy(results[OUTPUT]), encoder(image)) <= 0.02
