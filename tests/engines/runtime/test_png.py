"""`sparsesam-run` reads PNG files as the Python package does, through Pillow, and refuses those that are hostile."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsesam_deploy.model.image import read_image
from tests.engines.runtime.conftest import run
from tests.engines.runtime.pictures import GREY, KINDS, PALETTE, RGB, RGB_ALPHA, chunk, make_png, orientation


@pytest.fixture
def decode(sanitised_build, tmp_path):
    def decode(content: bytes) -> np.ndarray | str:
        """The pixels, or why there are none."""
        (tmp_path / "in.png").write_bytes(content)
        probe, strict = sanitised_build / "tests" / "png_probe", {"ASAN_OPTIONS": "max_allocation_size_mb=600"}
        done = run(probe, tmp_path / "in.png", tmp_path / "out.raw", env=strict)
        if done.returncode != 0:
            assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
            return done.stderr
        raw = (tmp_path / "out.raw").read_bytes()
        height, width = struct.unpack("<ii", raw[:8])
        return np.frombuffer(raw[8:], np.uint8).reshape(height, width, 3)

    return decode


def pillow(content: bytes, folder: Path) -> np.ndarray:
    (folder / "pillow.png").write_bytes(content)
    return read_image(folder / "pillow.png")


@pytest.mark.parametrize(("colour", "bits"), KINDS, ids=str)
def test_every_kind_is_read_as_by_pillow(decode, tmp_path, colour, bits):
    for width in (1, 7, 16):
        content = make_png(colour, bits, 5, width)
        assert np.array_equal(decode(content), pillow(content, tmp_path))


def test_transparency_is_dropped(decode, tmp_path):
    for colour, bits, data in ((PALETTE, 8, bytes(range(200))), (RGB, 8, b"\0\1\0\2\0\3"), (GREY, 8, b"\0\7")):
        content = make_png(colour, bits, 6, 9, extra=(chunk(b"tRNS", data), chunk(b"gAMA", struct.pack(">I", 45455))))
        assert np.array_equal(decode(content), pillow(content, tmp_path))


def test_interlaced_files(decode, tmp_path):
    content = make_png(RGB_ALPHA, 8, 1, 1, interlaced=True)
    assert np.array_equal(decode(content), pillow(content, tmp_path))


@pytest.mark.parametrize("little", [True, False])
def test_rotated_files_are_refused(decode, little):
    assert "is stored rotated (EXIF orientation 6); save it upright" in decode(
        make_png(RGB, 8, 2, 3, extra=(orientation(6, little),))
    )
    assert decode(make_png(RGB, 8, 2, 3, extra=(orientation(1, little),))).shape == (2, 3, 3)


def sized(height: int, width: int) -> bytes:
    """A file that claims a size and holds next to nothing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, RGB, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")


GOOD = make_png(RGB, 8, 40, 50)
HOSTILE = {
    "empty": (b"", "is no PNG; convert it"),
    "jpeg": (b"\xff\xd8\xff\xe0 not a png at all", "is no PNG; convert it"),
    "header alone": (GOOD[:8], "cannot be decoded (the file ends too early)"),
    "truncated": (GOOD[:-500], "cannot be decoded (the file ends too early)"),
    "flipped": (GOOD[:100] + bytes([GOOD[100] ^ 255]) + GOOD[101:], "cannot be decoded ("),
    "bomb by width": (sized(1, 1 << 30), "cannot be decoded ("),
    "bomb by size": (sized(16000, 16000), "has 256000000 pixels, more than the 178956970 that are decoded"),
    "hollow": (sized(13000, 13000), "the file is too short for its size in pixels"),
    "chunk beyond the file": (GOOD[:33] + b"\x66\0\0\x1aeXIf" + GOOD[33:], "the file ends too early"),
    "chunk of a header": (GOOD[:33] + b"\x66\0\0\x1aeXIf", "the file ends too early"),
    "huge chunk": (GOOD[:33] + chunk(b"eXIf", bytes(9 << 20)) + GOOD[33:], "holds 9437184 bytes of metadata"),
    "no pixels": (make_png(RGB, 8, 0, 5), "cannot be decoded ("),
    "huge text": (make_png(RGB, 8, 2, 2, extra=(chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * (64 << 20))),)), None),
}


@pytest.mark.parametrize(("content", "sentence"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files(decode, content, sentence):
    result = decode(content)
    if sentence is None:  # metadata that is not needed is passed over
        assert result.shape == (2, 2, 3)
    else:
        assert sentence in result and result.endswith(".\n")


def test_masks_are_written_whole_or_not_at_all(sanitised_build, tmp_path):
    probe = sanitised_build / "tests" / "png_probe"
    mask = np.random.default_rng(0).integers(0, 2, (13, 37), np.uint8)
    (tmp_path / "mask.raw").write_bytes(mask.tobytes())
    assert run(probe, 13, 37, tmp_path / "mask.raw", tmp_path / "mask.png").returncode == 0
    with Image.open(tmp_path / "mask.png") as written:
        assert written.mode == "L"
        assert np.array_equal(np.array(written), mask * 255)
    failed = run(probe, 13, 37, tmp_path / "mask.raw", tmp_path / "nowhere" / "mask.png")
    assert failed.returncode == 2
    assert "cannot write to" in failed.stderr and "No such file or directory; check the path" in failed.stderr
    (tmp_path / "taken.png").mkdir()
    assert run(probe, 13, 37, tmp_path / "mask.raw", tmp_path / "taken.png").returncode == 2
    assert not list(tmp_path.glob("*.partial"))


def test_a_missing_image(sanitised_build, tmp_path):
    missing = run(sanitised_build / "tests" / "png_probe", tmp_path / "nothing.png", tmp_path / "out")
    assert missing.returncode == 2
    assert "cannot read image" in missing.stderr and "No such file or directory; check the path" in missing.stderr
