"""The encoder in parts: together they are the file, and no session holds more than one block's weights."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from sparsesam_deploy.export.encoder import OUTPUT, inner_names, stream_names
from sparsesam_deploy.model.config import PRESETS, SparsityConfig
from sparsesam_deploy.parity import onnx_runner
from sparsesam_deploy.parity.blocks import encode_one, first_failure
from sparsesam_deploy.parity.decisions import decisions
from sparsesam_deploy.parity.metrics import relative_l2
from sparsesam_deploy.parity.onnx_runner import GraphRunner, OnnxRunner
from sparsesam_deploy.parity.parts import EncoderParts
from sparsesam_deploy.parity.tolerance import TOLERANCES
from tests.export.models import TINY_HQ, Exported, export, random_image

from .faults import Fault, route_flattest, write_broken
from .judging import judge

SHARED = SparsityConfig(0.25, (1.0, 0.2, 0.3, 0.6), 0.6, routing="share-quadtree", windowed_routing="share-variance")
VARIANTS = {
    "default-fp16": (PRESETS["default"], {"dtype": "fp16"}),
    "ranked": (PRESETS["paper"], {}),
    "shared-windows-inlined": (SHARED, {"inline": True}),
    "hq-two-images": (PRESETS["default"], {"config": TINY_HQ, "batch": (2, 2, 4)}),
}


@pytest.fixture(scope="module", params=VARIANTS)
def exported(request, tmp_path_factory) -> Exported:
    sparsity, options = VARIANTS[request.param]
    return export(tmp_path_factory.mktemp(request.param), sparsity, **options)


def test_no_node_is_left_out(exported):
    """What several blocks make of one ranking is in each of their parts."""
    parts = EncoderParts(exported.path, exported.encoder).parts
    assert [part.name for part in parts] == ["embedding", *(f"block {i}" for i in range(4)), "neck"]
    assert {node for part in parts for node in part.nodes} == {*range(len(exported.load().graph.node))}


def test_the_parts_in_turn_are_the_file(exported):
    """Against one session that keeps the same names as outputs: bit for bit in float32, else within rounding."""
    parts = EncoderParts(exported.path, exported.encoder)
    whole = OnnxRunner(exported.path, inner_names(exported.encoder))
    image = random_image(parts.metadata["batch"][0]).numpy()
    values = {"image": image}
    for part in parts.parts:
        values |= GraphRunner(parts.model(part), parts.path).run({name: values[name] for name in part.inputs})
    expected, exact = whole.run({"image": image}), parts.metadata["dtype"] == "fp32"
    for name in expected if exact else (OUTPUT, *stream_names(exported.encoder.config.depth)):
        error = relative_l2(values[name].astype(np.float32), expected[name])
        assert error <= (0 if exact else TOLERANCES["fp16"].embedding), name


def test_a_healthy_file_is_accepted(exported):
    dtype = EncoderParts(exported.path, exported.encoder).metadata["dtype"]
    parity = judge(exported, exported.path)
    assert first_failure(parity.stages, dtype) is None
    assert parity.relative_l2_routed_alike <= TOLERANCES[dtype].embedding


def test_near_ties_of_rankings_are_accepted(tmp_path):
    """Which abound in half precision; wrong rankings are refused in ``test_verify.py``."""
    exported = export(tmp_path, PRESETS["paper"], "fp16")
    stages = judge(exported, exported.path).stages
    assert first_failure(stages, "fp16") is None
    assert {"block 0 ranking", "block 1 ranking"} <= {stage.name for stage in stages}


@torch.inference_mode()
def test_the_reference_follows_from_where_decisions_differ(tmp_path: Path):
    """Block 1 routes the flattest groups: the reference's own way stays, the other is the graph's to the end."""
    healthy = export(tmp_path, SparsityConfig(0.25, 0.4))
    path = write_broken(tmp_path / "broken.onnx", healthy.path, [Fault("flattest", 1, route_flattest)])
    parity, image = judge(healthy, path), random_image()
    outputs = encode_one(OnnxRunner(path, inner_names(healthy.encoder)), image.numpy(), 1)
    *_, alike = healthy.encoder.streams(image, decisions(healthy.encoder, outputs))
    expected = relative_l2(outputs[OUTPUT], healthy.encoder.finish(alike).numpy())
    assert parity.relative_l2_routed_alike == pytest.approx(expected, rel=0.1) and expected < 1e-5
    assert np.array_equal(parity.expected.image_embeddings, healthy.encoder(image).numpy())
    assert parity.relative_l2 > 1e-2


# --- memory ------------------------------------------------------------------------------------------------------


def blocks_with_weights(model: onnx.ModelProto) -> set[str]:
    """Which blocks, or none, a session's weights are for; none of them may be for no node."""
    weights = {weight.name for weight in model.graph.initializer}
    assert weights <= {name for node in model.graph.node for name in node.input}
    names = [node.name.split(".") for node in model.graph.node if weights & {*node.input}]
    return {name[2] if name[1] == "blocks" else "none" for name in names if len(name) > 1}


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_no_session_holds_the_weights_of_two_blocks(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And a part's sessions are gone before the next part's are made."""
    exported = export(tmp_path, PRESETS["default"], dtype)
    made: list[tuple[set[str], set[str]]] = []
    alive: weakref.WeakKeyDictionary[onnxruntime.InferenceSession, str] = weakref.WeakKeyDictionary()
    create = onnx_runner._session

    def session(model: onnx.ModelProto, source: Path) -> onnxruntime.InferenceSession:
        made.append((blocks_with_weights(model), {*alive.values()}))
        created = create(model, source)
        alive[created] = model.graph.name
        return created

    monkeypatch.setattr(onnx_runner, "_session", session)
    judge(exported, exported.path)
    runs = 1 if dtype == "fp32" else 2
    held = [blocks for blocks, _ in made]
    assert held == [{block} for block in ("none", "0", "1", "2", "3", "none") for _ in range(runs)]
    parts = ["embedding", *(f"block {i}" for i in range(4)), "neck"]
    assert [others for _, others in made] == [{name} if run else set() for name in parts for run in range(runs)]
