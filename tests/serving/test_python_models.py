"""The python models' arithmetic against torch, segment_anything and the package's own reading of images."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from torch import nn

from sparsesam_deploy.model.image import read_image
from sparsesam_deploy.serving.models import image as image_model
from sparsesam_deploy.serving.models import masks as masks_model
from sparsesam_deploy.serving.models import prompts as prompts_model
from tests.model.test_image import SIZES, noise
from tests.upscaled import by_sam

MEAN, STD = np.array([123.675, 116.28, 103.53], np.float32), np.array([58.395, 57.12, 57.375], np.float32)


class RecordingEncoder(nn.Module):
    """Stands where SAM's image encoder is, and keeps what it was given."""

    img_size = 1024

    def forward(self, image):
        self.seen = image
        return image


@pytest.fixture
def predictor() -> SamPredictor:
    return SamPredictor(Sam(RecordingEncoder(), nn.Identity(), nn.Identity()).eval())


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_preprocessing_is_bit_identical(predictor, size):
    predictor.set_image(noise(*size))
    found = image_model.encoder_input(noise(*size), 1024, MEAN, STD)
    assert found.dtype == np.float32 and np.array_equal(found, predictor.model.image_encoder.seen.numpy())


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_masks_are_scaled_as_by_sam(size):
    logits = np.random.default_rng(0).standard_normal((256, 256), np.float32) * 10
    expected, allowed = by_sam(logits, size)
    rows, columns = (masks_model.upscaling(256, side, max(size), 1024) for side in size)
    found = rows @ logits @ columns.T
    assert found.dtype == np.float32 and found.shape == size
    assert (np.abs(found - expected) <= allowed).all()


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_points_are_scaled_as_by_sam(predictor, size):
    coords = np.random.default_rng(0).uniform(0, size[::-1], (3, 2, 2)).astype(np.float32)
    expected = predictor.transform.apply_coords(coords, size).astype(np.float32)
    found, _ = prompts_model.decoder_prompts(coords, np.full((3, 2), 2), size, 1024)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[1], [0]], [[1, -1], [0, -1]]),
        ([[1, 1], [0, -1]], [[1, 1, -1], [0, -1, -1]]),
        ([[1, -1], [0, -1]], [[1, -1], [0, -1]]),
        ([[2, 3]], [[2, 3]]),
        ([[2, 3, 1], [1, -1, -1]], [[2, 3, 1], [1, -1, -1]]),
    ],
    ids=["points", "uneven", "padded", "box", "box-and-point"],
)
def test_a_padding_point_where_no_box_is(labels, expected):
    labels = np.array(labels, np.int32)
    coords, found = prompts_model.decoder_prompts(np.ones((*labels.shape, 2), np.float32), labels, (1024, 1024), 1024)
    assert found.dtype == np.float32 and found.tolist() == expected
    assert coords.shape == (*found.shape, 2) and not coords[:, labels.shape[1] :].any()


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(noise(20, 30)), "JPEG", exif=exif)


GREY16 = np.arange(600, dtype=np.uint16).reshape(20, 30) * 109
READABLE = {
    "rgb": saved(Image.fromarray(noise(20, 30))),
    "jpeg-turned": turned(),
    "alpha": saved(Image.fromarray(noise(20, 30)).convert("RGBA")),
    "palette": saved(Image.fromarray(noise(20, 30)).convert("P")),
    "grey": saved(Image.fromarray(noise(20, 30)).convert("L")),
    "grey-16": saved(Image.fromarray(GREY16)),
}


@pytest.mark.parametrize("data", READABLE.values(), ids=READABLE)
def test_files_are_read_as_everywhere_else(tmp_path, data):
    (tmp_path / "image").write_bytes(data)
    assert np.array_equal(image_model.decode_image(data), read_image(tmp_path / "image"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "image of 0 bytes is not a file that Pillow knows"),
        (READABLE["rgb"][:300], "image cannot be decoded"),
        (saved(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "floating-point pixels"),
        (saved(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), "TIFF"), "grey values beyond 16 bits"),
    ],
    ids=["empty", "cut", "float", "32-bit"],
)
def test_files_that_cannot_be_used(data, message):
    with pytest.raises(ValueError, match=message) as caught:
        image_model.decode_image(data)
    assert str(caught.value).endswith(".")


def test_a_bomb_is_not_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="too large to be decoded safely"):
        image_model.decode_image(READABLE["rgb"])


def test_an_image_of_which_nothing_is_left():
    with pytest.raises(ValueError, match="image of 1x3000 pixels is too narrow"):
        image_model.encoder_input(noise(3000, 1), 1024, MEAN, STD)


@pytest.mark.parametrize("multimask", [True, False], ids=["three-masks", "one-mask"])
def test_the_masks_of_sam_hq(multimask):
    """Against the choice in segment_anything_hq's MaskDecoderHQ.forward."""
    oracle = pytest.importorskip("segment_anything_hq.modeling").MaskDecoderHQ
    generator = torch.Generator().manual_seed(0)
    masks, iou = torch.randn(3, 5, 8, 8, generator=generator), torch.randn(3, 4, generator=generator)
    iou[0] = torch.tensor([9.0, 0.1, 0.3, 0.2])

    def zero(_):
        return 0

    decoder = SimpleNamespace(
        embedding_encoder=zero,
        compress_vit_feat=zero,
        num_mask_tokens=5,
        predict_masks=lambda **_: (masks.clone(), iou.clone()),
    )
    expected, expected_iou = oracle.forward(
        decoder, None, None, torch.zeros(3, 0), None, multimask, False, torch.zeros(1, 1, 1, 1, 1)
    )
    found, found_iou = masks_model.choose(masks.numpy(), iou.numpy(), multimask)
    assert found.shape == (3, 1, 8, 8)
    np.testing.assert_array_equal(found, expected.numpy())
    np.testing.assert_array_equal(found_iou, expected_iou.numpy())


def test_numpy_and_pillow_are_all_they_import():
    """As in Triton's container: no torch, nothing of this package."""
    command = "import json, runpy, sys; runpy.run_path(sys.argv[1]); print(json.dumps(sorted(sys.modules)))"
    for model in (image_model, prompts_model, masks_model):
        arguments = [sys.executable, "-c", command, model.__file__]
        loaded = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
        packages = {name.partition(".")[0] for name in loaded}
        assert "numpy" in packages and not packages & {"torch", "torchvision", "sparsesam_deploy", "segment_anything"}
