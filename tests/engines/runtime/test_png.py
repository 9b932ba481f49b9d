"""`sparsesam-run` reads PNG files as the Python package does, through Pillow, and refuses those that are hostile."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from tests.engines.runtime.pictures import GREY, KINDS, PALETTE, RGB, RGB_ALPHA, chunk, make_png


@pytest.mark.parametrize(("colour", "bits"), KINDS, ids=str)
def test_every_kind_is_read_as_by_pillow(decode, pillow, colour, bits):
    for width in (1, 7, 16):
        content = make_png(colour, bits, 5, width)
        assert np.array_equal(decode(content), pillow(content))


def test_every_grey_of_16_bits(decode, pillow):
    rows = np.arange(1 << 16, dtype=">u2").reshape(256, 256).view(np.uint8)
    filtered = np.concatenate((np.zeros((256, 1), np.uint8), rows), 1).tobytes()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 256, 256, 16, GREY, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(filtered)) + chunk(b"IEND", b"")
    assert np.array_equal(decode(content), pillow(content))


def test_transparency_is_dropped(decode, pillow):
    for colour, bits, data in ((PALETTE, 8, bytes(range(200))), (RGB, 8, b"\0\1\0\2\0\3"), (GREY, 8, b"\0\7")):
        content = make_png(colour, bits, 6, 9, extra=(chunk(b"tRNS", data), chunk(b"gAMA", struct.pack(">I", 45455))))
        assert np.array_equal(decode(content), pillow(content))


def test_interlaced_files(decode, pillow):
    for colour, bits, height, width in ((RGB_ALPHA, 8, 1, 1), (RGB, 8, 21, 30), (GREY, 16, 9, 7)):
        content = make_png(colour, bits, height, width, interlaced=True)
        assert np.array_equal(decode(content), pillow(content))


def sized(height: int, width: int) -> bytes:
    """A file that claims a size and holds next to nothing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, RGB, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")


GOOD = make_png(RGB, 8, 40, 50)
HOSTILE = {
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
