"""Reading and preprocessing against SamPredictor, and every image that cannot be used."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from torch import Tensor, nn

from sparsesam_deploy.errors import ImageError
from sparsesam_deploy.model.image import preprocess, read_image, upscale_masks


class RecordingEncoder(nn.Module):
    """Stands where SAM's image encoder is, and keeps what it was given."""

    img_size = 1024

    def forward(self, image: Tensor) -> Tensor:
        self.seen = image
        return image


@pytest.fixture
def predictor() -> SamPredictor:
    return SamPredictor(Sam(RecordingEncoder(), nn.Identity(), nn.Identity()).eval())


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def forged_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


SIZES = {
    "landscape": (60, 90),
    "portrait": (90, 61),
    "larger-than-1024": (1500, 1100),
    "exactly-1024": (1024, 1024),
    "one-pixel": (1, 1),
    "as-narrow-as-possible": (1, 2048),
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_preprocess_is_sam_predictor_to_the_bit(predictor: SamPredictor, size: tuple[int, int]) -> None:
    image = noise(*size)
    predictor.set_image(image)
    ours = preprocess(image)
    assert ours.tensor.shape == (1, 3, 1024, 1024)
    assert ours.tensor.dtype == torch.float32
    assert torch.equal(ours.tensor, predictor.model.image_encoder.seen)
    assert ours.original_size == predictor.original_size == size
    assert ours.input_size == predictor.input_size


@pytest.mark.parametrize("size", [(60, 90), (90, 61), (1, 1)], ids=["landscape", "portrait", "one-pixel"])
def test_upscale_masks_is_sams_postprocess(predictor: SamPredictor, size: tuple[int, int]) -> None:
    sizes = preprocess(noise(*size))
    logits = torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    ours = upscale_masks(logits, sizes.input_size, sizes.original_size)
    assert ours.shape == (2, 3, *size)
    assert torch.equal(ours, predictor.model.postprocess_masks(logits, sizes.input_size, size))


def rgb(*pixels: tuple[int, int, int]) -> np.ndarray:
    return np.array([pixels], dtype=np.uint8)


def palette_image() -> Image.Image:
    image = Image.fromarray(np.array([[1, 0]], dtype=np.uint8), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    return image


SIXTEEN_BITS = np.array([[0, 128, 129, 25700, 65535]], dtype=np.uint16)
SIXTEEN_BITS_RGB = rgb((0, 0, 0), (0, 0, 0), (1, 1, 1), (100, 100, 100), (255, 255, 255))
READABLE = {
    "grey": (Image.fromarray(np.array([[7, 200]], dtype=np.uint8)), "png", rgb((7, 7, 7), (200, 200, 200))),
    "one-bit": (Image.fromarray(np.array([[False, True]])), "png", rgb((0, 0, 0), (255, 255, 255))),
    "palette": (palette_image(), "png", rgb((40, 50, 60), (10, 20, 30))),
    "alpha-is-dropped": (Image.new("RGBA", (1, 1), (9, 8, 7, 0)), "png", rgb((9, 8, 7))),
    "grey-alpha": (Image.new("LA", (1, 1), (9, 0)), "png", rgb((9, 9, 9))),
    "cmyk": (Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "tiff", rgb((0, 255, 255))),
    "16-bit-png": (Image.fromarray(SIXTEEN_BITS), "png", SIXTEEN_BITS_RGB),
    "16-bit-tiff": (Image.fromarray(SIXTEEN_BITS), "tiff", SIXTEEN_BITS_RGB),
    "16-bits-in-32": (Image.fromarray(SIXTEEN_BITS.astype(np.int32)), "tiff", SIXTEEN_BITS_RGB),
}


@pytest.mark.parametrize(("image", "kind", "expected"), READABLE.values(), ids=READABLE)
def test_reads_every_mode_as_rgb(tmp_path: Path, image: Image.Image, kind: str, expected: np.ndarray) -> None:
    image.save(tmp_path / f"image.{kind}")
    got = read_image(tmp_path / f"image.{kind}")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_applies_the_exif_orientation(tmp_path: Path, orientation: int) -> None:
    stored = noise(2, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "photo.png", exif=exif)
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }
    np.testing.assert_array_equal(read_image(tmp_path / "photo.png"), upright[orientation])


def damaged_jpeg(path: Path) -> None:
    Image.fromarray(noise(64, 64)).save(path, format="jpeg")
    path.write_bytes(path.read_bytes()[:-500])


def text_bomb(path: Path) -> None:
    text = PngInfo()
    text.add_text("comment", "x" * 2**23, zip=True)
    Image.fromarray(noise(4, 4)).save(path, format="png", pnginfo=text)


UNREADABLE = {
    "missing": (lambda path: None, "does not exist; check the path"),
    "folder": (lambda path: path.mkdir(), "is a folder; name one image file"),
    "empty": (lambda path: path.touch(), "is not an image that Pillow knows; convert it"),
    "text": (lambda path: path.write_text("not an image"), "is not an image that Pillow knows; convert it"),
    "truncated": (damaged_jpeg, r"cannot be decoded (image file is truncated"),
    "no-pixels": (lambda path: path.write_bytes(forged_png(8, 8)), "cannot be decoded ("),
    "text-bomb": (text_bomb, "cannot be decoded (Decompressed "),
    "float": (
        lambda path: Image.new("F", (1, 1)).save(path, format="tiff"),
        "has floating-point pixels of unknown range; save it with 8 or 16 bits",
    ),
    "32-bit": (
        lambda path: Image.new("I", (1, 1), 65536).save(path, format="tiff"),
        "has grey values beyond 16 bits; save it with 8 or 16 bits",
    ),
    "bomb": (
        lambda path: path.write_bytes(forged_png(20000, 20000)),
        "is too large to be decoded safely (Image size (400000000 pixels) exceeds limit of 178956970 pixels); scale",
    ),
}


@pytest.mark.parametrize(("write", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_says_why_an_image_cannot_be_read(tmp_path: Path, write, message: str) -> None:
    path = tmp_path / "image.dat"
    write(path)
    with pytest.raises(ImageError, match=re.escape(f"image {path} {message}")):
        read_image(path)


def test_large_image_below_the_limit_is_read_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow warns from 100 pixels on, and refuses above 200
    Image.fromarray(noise(12, 12)).save(tmp_path / "large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "large.png").shape == (12, 12, 3)


UNUSABLE = {
    "float": (np.zeros((4, 4, 3), np.float32), "image array is float32 of shape (4, 4, 3); give uint8"),
    "grey": (
        np.zeros((4, 4), np.uint8),
        "image array is uint8 of shape (4, 4); give uint8 of shape (height, width, 3)",
    ),
    "rgba": (np.zeros((4, 4, 4), np.uint8), "image array is uint8 of shape (4, 4, 4); give uint8"),
    "empty": (np.zeros((0, 0, 3), np.uint8), "image of 0x0 pixels is too narrow"),
    "wide": (
        np.zeros((1, 5000, 3), np.uint8),
        "image of 5000x1 pixels is too narrow: nothing is left of its short side",
    ),
    "tall": (
        np.zeros((5000, 1, 3), np.uint8),
        "image of 1x5000 pixels is too narrow: nothing is left of its short side",
    ),
}


@pytest.mark.parametrize(("image", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_says_why_an_array_cannot_be_used(image: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=re.escape(message)):
        preprocess(image)
