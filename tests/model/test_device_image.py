"""Resizing in torch against segment_anything's own, pixel by pixel; on a GPU see ``test_on_a_gpu``."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from segment_anything.utils.transforms import ResizeLongestSide

from sparsesam_deploy.errors import EnvironmentProblem, ImageError
from sparsesam_deploy.model import device_image
from sparsesam_deploy.model.device_image import resize, resize_longest_side
from sparsesam_deploy.model.image import preprocess

SIZES = {
    "one pixel": (1, 1),
    "a line": (1, 2048),
    "a column": (2048, 1),
    "a few pixels": (2, 3),
    "one row too small": (1023, 1024),
    "one row too large": (1025, 1024),
    "already that size": (1024, 1024),
    "one side already": (1024, 17),
    "other side already": (17, 1024),
    "upscaled landscape": (131, 400),
    "upscaled portrait": (400, 131),
    "downscaled landscape": (1100, 1500),
    "downscaled portrait": (1500, 1100),
    "narrow portrait, columns first": (1500, 600),
    "narrow landscape": (600, 1500),
    "very narrow portrait": (2300, 20),
    "prime numbers": (1409, 1201),
}
PIXELS = {
    "noise": lambda random, size: random.integers(0, 256, size, dtype=np.uint8),
    "extremes": lambda random, size: random.integers(0, 2, size, dtype=np.uint8) * 255,
    "white": lambda random, size: np.full(size, 255, np.uint8),
}


def picture(size: tuple[int, int], pixels: str = "noise") -> np.ndarray:
    return PIXELS[pixels](np.random.default_rng(sum(size)), (*size, 3))


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_it_is_segment_anythings_to_the_bit(size, pixels):
    image = picture(size, pixels)
    expected = torch.as_tensor(ResizeLongestSide(1024).apply_image(image))
    found = resize_longest_side(torch.from_numpy(image)[None])
    assert found.dtype == torch.uint8 and torch.equal(found[0], expected.permute(2, 0, 1))


def test_any_size_to_any_other_is_pillows():
    random = np.random.default_rng(0)
    for _ in range(150):
        old_height, old_width, height, width = (int(side) for side in random.integers(1, 120, 4))
        image = random.integers(0, 2, (old_height, old_width, 3), dtype=np.uint8) * 255
        expected = np.asarray(PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BILINEAR))
        found = resize(torch.from_numpy(image)[None], height, width)[0].numpy()
        assert np.array_equal(found, expected), (old_height, old_width, height, width)


@pytest.mark.parametrize("size", [(300, 500), (1500, 600), (1024, 1024)], ids="{0[0]}x{0[1]}".format)
def test_a_tensor_is_preprocessed_as_an_array(size):
    image = picture(size)
    expected, found = preprocess(image), preprocess(torch.from_numpy(image))
    assert torch.equal(found.tensor, expected.tensor) and found.tensor.is_contiguous()
    assert (found.original_size, found.input_size) == (expected.original_size, expected.input_size)


def test_a_batch_is_its_images():
    images = [picture((200, 301), pixels) for pixels in PIXELS]
    found = preprocess(torch.from_numpy(np.stack(images)))
    assert torch.equal(found.tensor, torch.cat([preprocess(image).tensor for image in images]))
    assert found.original_size == (200, 301)


def test_a_tensor_stays_on_its_device():
    """Meta tensors raise where anything would have to leave the device."""
    device_image._check_pillow()
    found = preprocess(torch.empty(2, 480, 640, 3, dtype=torch.uint8, device="meta"))
    assert found.tensor.is_meta and found.tensor.shape == (2, 3, 1024, 1024)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (
            torch.zeros(4, 5, 3),
            r"image tensor is float32 of shape \(4, 5, 3\); give uint8 of shape \(height, width, 3\)",
        ),
        (torch.zeros(3, 4, 5, dtype=torch.uint8), r"or \(B, height, width, 3\)\.$"),
        (torch.zeros(0, 4, 5, 3, dtype=torch.uint8), "image of 5x4 pixels is too narrow"),
        (torch.zeros(4000, 1, 3, dtype=torch.uint8), "image of 1x4000 pixels is too narrow"),
    ],
    ids=["float", "channels first", "empty batch", "narrow"],
)
def test_what_is_no_image(image, sentence):
    with pytest.raises(ImageError, match=sentence):
        preprocess(image)


def test_weights_on_a_gpu_outlive_the_cache(monkeypatch):
    """They are cached for all streams: memory is to be had again only when the stream that uses them is done."""
    kept = []
    taps = [SimpleNamespace(record_stream=lambda stream, name=name: kept.append((name, stream))) for name in "iw"]
    monkeypatch.setattr(device_image, "_taps", lambda *sizes: tuple(taps))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the current one of {device}")
    assert device_image._taps_in_this_stream(4, 2, torch.device("cuda", 1)) == tuple(taps)
    assert kept == [("i", "the current one of cuda:1"), ("w", "the current one of cuda:1")]
    device_image._taps_in_this_stream(4, 2, torch.device("cpu"))
    assert len(kept) == 2


def test_an_unknown_pillow_is_found_out(monkeypatch):
    """As if a later Pillow had gone back to rows first."""
    monkeypatch.setattr(device_image, "_vertical_first", lambda *sizes: device_image.PILLOW < (13, 0))
    device_image._check_pillow.cache_clear()
    with pytest.raises(
        EnvironmentProblem, match=r"Pillow \S+ resizes in a way that is unknown here; give images as num"
    ):
        resize_longest_side(torch.zeros(1, 4, 4, 3, dtype=torch.uint8))
