"""The ensemble executed step by step as its configuration says, against segment_anything's own SamPredictor."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from segment_anything import SamPredictor

from sparsesam_deploy.export.encoder import export_encoder
from sparsesam_deploy.export.options import ExportOptions
from sparsesam_deploy.model.checkpoint import load_nano
from sparsesam_deploy.model.config import SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.parity.samples import SHIPPED
from sparsesam_deploy.progress import Stages
from sparsesam_deploy.serving.options import ServingOptions
from sparsesam_deploy.serving.repository import write_repository
from tests.serving import triton_server
from tests.serving.builds import make_build

ON_CPU = ServingOptions(platform="onnxruntime", decoder_platform="onnxruntime", device="cpu")
COINS = SHIPPED / "coins.png"
BOXES = np.array([[305, 15, 364, 71], [35, 85, 92, 138]], np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, decoder_of) -> Path:
    """The nano model, dense and in float32, so that segment_anything itself says what is right."""
    folder, loaded = tmp_path_factory.mktemp("exported"), load_nano()
    encoder = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, SparsityConfig(1.0, 1.0), "erf")
    export_encoder(encoder, loaded, folder / "encoder.onnx", ExportOptions("fp32", batch=(1, 2, 4)))
    shutil.copyfile(decoder_of(loaded), folder / "decoder.onnx")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, exported) -> triton_server.Server:
    folder = tmp_path_factory.mktemp("serving")
    make_build(folder / "build", exported)
    write_repository([folder / "build"], folder / "repository", ON_CPU, Stages(Console(file=io.StringIO())))
    return triton_server.Server(folder / "repository")


@pytest.fixture(scope="module")
def predictor() -> SamPredictor:
    """Unmodified, with the coins set."""
    predictor = SamPredictor(load_nano().sam)
    predictor.set_image(np.array(Image.open(COINS).convert("RGB")))
    return predictor


@pytest.fixture(autouse=True)
def python_backend(monkeypatch):
    triton_server.install(monkeypatch)


def ask(server: triton_server.Server, coords, labels, **more) -> dict[str, np.ndarray]:
    request = {
        "image": np.fromfile(COINS, np.uint8),
        "point_coords": np.asarray(coords, np.float32),
        "point_labels": np.asarray(labels, np.int32),
        **{name: np.array([value]) for name, value in more.items()},
    }
    return server.infer("sam", request)


def assert_same(answer: dict[str, np.ndarray], index: int, masks, iou, low_res) -> None:
    """One prompt's answer; 1e-4 of the pixels may lie where rounding decides."""
    np.testing.assert_allclose(answer["low_res_masks"][index], low_res, atol=2e-3)
    np.testing.assert_allclose(answer["iou_predictions"][index], iou, atol=1e-4)
    assert answer["masks"][index].shape == masks.shape and 0.001 < masks.mean() < 0.5
    assert (answer["masks"][index] != masks).mean() < 1e-4


@pytest.mark.parametrize("multimask", [True, False], ids=["three-masks", "one-mask"])
def test_boxes(server, predictor, multimask):
    answer = ask(server, BOXES.reshape(2, 2, 2), [[2, 3], [2, 3]], multimask_output=multimask)
    for index, box in enumerate(BOXES):
        assert_same(answer, index, *predictor.predict(box=box, multimask_output=multimask))


def test_points_with_the_default_of_three_masks(server, predictor):
    coords, labels = np.array([[334.0, 43.0], [300.0, 43.0]]), np.array([1, 0])
    answer = ask(server, coords[None], labels[None])
    assert_same(answer, 0, *predictor.predict(coords, labels))


def test_box_and_point(server, predictor):
    coords = np.concatenate((np.array([[334.0, 43.0]]), BOXES[0].reshape(2, 2)))
    answer = ask(server, coords[None], [[1, 2, 3]], multimask_output=False)
    expected = predictor.predict(coords[:1], np.array([1]), box=BOXES[0], multimask_output=False)
    assert_same(answer, 0, *expected)


def test_embeddings_are_made_once_and_asked_often(server, predictor):
    embedded = server.infer("sam_embed", {"image": np.fromfile(COINS, np.uint8)})
    server.calls.clear()
    for box in BOXES:
        asked = {"point_coords": box.reshape(1, 2, 2), "point_labels": np.array([[2, 3]], np.int32)}
        answer = server.infer("sam_predict", embedded | asked | {"multimask_output": np.array([False])})
        assert_same(answer, 0, *predictor.predict(box=box, multimask_output=False))
    assert server.calls == ["sam_predict", "sam_prompts", "sam_decoder", "sam_masks"] * 2


def test_every_model_is_used_once(server):
    server.calls.clear()
    ask(server, BOXES[:1].reshape(1, 2, 2), [[2, 3]])
    assert server.calls == [
        *("sam", "sam_image", "sam_encoder"),
        *("sam_prompts", "sam_decoder", "sam_masks"),
    ]


@pytest.mark.parametrize(
    ("size", "prompts", "message"),
    [
        ((30000, 30000), 1, "1 prompts with a mask of 900000000 pixels each ask for more than the 536870912 pixels"),
        ((100, 100), 8193, "8193 prompts with a mask of 65536 pixels each"),
        ((1 << 40, 1 << 40), 1, "ask for more than"),
        ((1, 500_000_000), 1, "original_size 1x500000000 is no image's"),
        ((14000, 14000), 1, "3 masks of 14000x14000 pixels are more than the 536870912 pixels"),
    ],
    ids=["image", "prompts", "overflow", "narrow", "three-masks"],
)
def test_a_client_cannot_ask_for_endless_masks(server, size, prompts, message):
    request = {
        "image_embeddings": np.zeros((1, 256, 64, 64), np.float32),
        "original_size": np.array(size, np.int64),
        "point_coords": np.ones((prompts, 2, 2), np.float32),
        "point_labels": np.tile(np.array([2, 3], np.int32), (prompts, 1)),
    }
    with pytest.raises(triton_server.Refused, match=message) as caught:
        server.infer("sam_predict", request)
    assert caught.value.args[0].code == triton_server.TritonError.INVALID_ARG


@pytest.mark.parametrize("size", [(1 << 20, 1 << 20), (1, 100_000_000)], ids=["pixels", "matrices"])
def test_nor_the_last_model_itself(server, size):
    request = {
        "mask_candidates": np.zeros((1, 4, 256, 256), np.float32),
        "iou_candidates": np.zeros((1, 4), np.float32),
        "original_size": np.array(size, np.int64),
    }
    with pytest.raises(triton_server.Refused, match="pixels that one request is answered with"):
        server.infer("sam_masks", request)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros(9, np.uint8)}, "image of 9 bytes is not a file that Pillow knows"),
        ({"point_labels": np.array([[2, 4]], np.int32)}, "label 4 is unknown"),
        ({"point_labels": np.array([[2]], np.int32)}, "give one label for each point"),
        ({"point_coords": np.full((1, 2, 2), np.nan, np.float32)}, "not finite"),
    ],
    ids=["no-image", "label", "count", "nan"],
)
def test_unusable_requests_are_answered_with_a_sentence(server, change, message):
    request = {
        "image": np.fromfile(COINS, np.uint8),
        "point_coords": BOXES[:1].reshape(1, 2, 2),
        "point_labels": np.array([[2, 3]], np.int32),
    }
    with pytest.raises(triton_server.Refused, match=message) as caught:
        server.infer("sam", request | change)
    assert caught.value.args[0].code == triton_server.TritonError.INVALID_ARG
