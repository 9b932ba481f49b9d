"""Images are prepared as segment_anything does it through Pillow, to the bit; masks are scaled as by SAM in float64."""

from __future__ import annotations

import numpy as np
import PIL
import pytest
import torch
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

from tests.engines.runtime.library import INVALID_INPUT, Refused
from tests.upscaled import by_sam

PIXEL_MEAN, PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def reference(image: np.ndarray) -> np.ndarray:
    """`SamPredictor.set_image` and `Sam.preprocess`, on segment_anything's own resizing."""
    scaled = torch.as_tensor(ResizeLongestSide(1024).apply_image(image)).permute(2, 0, 1).contiguous()[None]
    sam = Sam.__new__(Sam)
    torch.nn.Module.__init__(sam)
    sam.image_encoder = type("Encoder", (torch.nn.Module,), {"img_size": 1024})()
    sam.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(-1, 1, 1))
    sam.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(-1, 1, 1))
    return sam.preprocess(scaled)[0].numpy()


def needs_pillow_13(height: int, width: int) -> bool:
    """Whether Pillow 13 scales columns first, where releases before scaled rows first and differ by a grey level."""
    new_height, new_width = ResizeLongestSide.get_preprocess_shape(height, width, 1024)
    return height > new_height and height - new_height > 2 * (width - new_width)


OLD_PILLOW = int(PIL.__version__.split(".")[0]) < 13


def pixels(height: int, width: int, kind: str = "random") -> np.ndarray:
    if kind == "extreme":
        return np.random.default_rng(1).choice(np.array([0, 255], np.uint8), (height, width, 3))
    if kind == "white":
        return np.full((height, width, 3), 255, np.uint8)
    return np.random.default_rng(height * 10_007 + width).integers(0, 256, (height, width, 3), np.uint8)


SIZES = [
    (1024, 1024), (1024, 768), (768, 1024), (1023, 1024), (1024, 1), (1, 1024), (1, 1), (2, 1), (3, 5), (17, 31),
    (303, 384), (511, 513), (1025, 1024), (1024, 1025), (1023, 1025), (2048, 2048), (2049, 1537), (1537, 2049),
    (1000, 333), (333, 1000), (3000, 7), (7, 3000), (2, 1025), (4001, 3), (2, 2047), (1365, 2048), (1366, 2731),
    (1367, 479), (1367, 684), (3000, 1500), (3000, 1501), (1500, 1),
]  # fmt: skip


@pytest.mark.parametrize(("height", "width"), SIZES, ids=lambda size: str(size))
def test_images_are_prepared_to_the_bit(core, height, width):
    if OLD_PILLOW and needs_pillow_13(height, width):
        pytest.skip(f"Pillow {PIL.__version__} scales tall images in the other order; pip install 'pillow>=13'")
    image = pixels(height, width)
    tensor, inside = core.preprocess(image)
    assert inside == ResizeLongestSide.get_preprocess_shape(height, width, 1024)
    assert np.array_equal(tensor, reference(image))


@pytest.mark.parametrize("kind", ["extreme", "white"])
@pytest.mark.parametrize(("height", "width"), [(600, 801), (1301, 1100), (1024, 700), (9, 13)])
def test_extreme_pixels(core, height, width, kind):
    image = pixels(height, width, kind)
    assert np.array_equal(core.preprocess(image)[0], reference(image))


def test_many_random_sizes(core):
    random = np.random.default_rng(7)
    for _ in range(40):
        height, width = (int(side) for side in np.exp(random.uniform(np.log(8), np.log(1400), 2)))
        if OLD_PILLOW and needs_pillow_13(height, width):
            continue
        image = pixels(height, width)
        assert np.array_equal(core.preprocess(image)[0], reference(image)), (height, width)


def test_rows_with_a_gap(core):
    wide = pixels(200, 300)
    assert np.array_equal(core.preprocess(wide[:, :250], stride=900)[0], reference(wide[:, :250].copy()))


@pytest.mark.parametrize(
    ("height", "width", "sentence"),
    [
        (0, 5, "image of 5x0 pixels is empty"),
        (5, -1, "image of -1x5 pixels is empty"),
        (1, 3000, "image of 3000x1 pixels is too narrow: nothing is left of its short side"),
        (1 << 25, 1, "is too large; scale it down"),
    ],
)
def test_unusable_sizes(core, height, width, sentence):
    with pytest.raises(Refused, match=sentence) as caught:
        core.upscale_mask(np.zeros((256, 256), np.float32), height, width)
    assert caught.value.status == INVALID_INPUT


def test_unusable_images(core):
    with pytest.raises(Refused, match="row_stride 5 is less than a row of 30 bytes; give 0"):
        core.preprocess(pixels(10, 10), stride=5)
    with pytest.raises(Refused, match="image is NULL"):
        core.call("preprocess", None, None, None, None)


def noisy_mask() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 8, (256, 256)).astype(np.float32)


def smooth_mask() -> np.ndarray:
    y, x = np.mgrid[:256, :256].astype(np.float32)
    return 40 - np.hypot(y - 90, x - 120)


@pytest.mark.parametrize("mask", [noisy_mask, smooth_mask])
@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (303, 384), (1365, 2048), (700, 11), (1, 1), (2500, 1111)])
def test_masks_are_scaled_as_by_sam(core, height, width, mask):
    expected, allowed = by_sam(mask(), (height, width))
    logits = core.upscale_mask(mask(), height, width)
    assert (np.abs(logits - expected) <= allowed).all()
