"""`sparsesam-run` reads JPEG files as the Python package does, through Pillow, and refuses those that are hostile."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from tests.engines.runtime.pictures import (
    EOI,
    SOI,
    exif,
    frame_header,
    make_jpeg,
    resized_jpeg,
    segment,
    turned_jpeg,
    upended_jpeg,
)

SIZES = ((1, 1), (3, 17), (64, 64), (181, 250))
KINDS = {
    "4:4:4": ("RGB", {"subsampling": "4:4:4"}),
    "4:2:2": ("RGB", {"subsampling": "4:2:2"}),
    "4:2:0": ("RGB", {"subsampling": "4:2:0"}),
    "coarse": ("RGB", {"quality": 3}),
    "fine": ("RGB", {"quality": 100}),
    "restarts": ("RGB", {"restart_marker_blocks": 3}),
    "rgb": ("RGB", {"keep_rgb": True}),
    "grey": ("L", {}),
    "cmyk": ("CMYK", {}),
}


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize(("mode", "options"), KINDS.values(), ids=KINDS)
def test_every_kind_is_read_as_by_pillow(decode, pillow, mode, options, progressive):
    for size in SIZES:
        content = make_jpeg(mode, *size, progressive=progressive, **options)
        assert np.array_equal(decode(content), pillow(content))


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_chroma_of_half_the_rows(decode, pillow, progressive):
    for size in SIZES:
        content = upended_jpeg(make_jpeg("RGB", *size, subsampling="4:2:2", progressive=progressive))
        assert np.array_equal(decode(content), pillow(content))


def test_cmyk_of_other_programs(decode, pillow):
    """YCCK, by the Adobe marker's last byte, and CMYK without that marker, which Pillow takes to be inverted too."""
    content = make_jpeg("CMYK", 40, 50)
    marker = segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")
    assert marker in content
    ycck, unmarked = content.replace(marker, marker[:-1] + b"\2"), content.replace(marker, b"")
    for other in (ycck, unmarked):
        assert np.array_equal(decode(other), pillow(other))
    assert not np.array_equal(decode(ycck), decode(content))


def test_what_harms_no_pixel_is_passed_over(decode, pillow):
    content = make_jpeg("RGB", 40, 50)
    quantisation = content.index(b"\xff\xdb")
    file = io.BytesIO()
    Image.open(io.BytesIO(content)).save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    for other in (
        content + b"behind the image",
        content[:quantisation] + b"\0\0\0" + content[quantisation:],
        SOI + segment(0xFE, b"a comment" * 5000) + content[2:],
        file.getvalue(),
    ):
        assert decode(other).shape == (40, 50, 3)
        assert np.array_equal(decode(other), pillow(other))


def test_exif_among_and_across_segments(decode):
    """Pillow puts split segments together too, but not before 10.4."""
    block = exif(6) + bytes(100)
    split = segment(0xE1, b"Exif\0\0" + block[:20]) + segment(0xE1, b"Exif\0\0" + block[20:])
    behind = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>") + segment(0xE1, b"Exif\0\0" + block)
    for extra in (split, behind):
        content = make_jpeg("RGB", 8, 16, extra=extra)
        assert decode(content).shape == (16, 8, 3)
        assert np.array_equal(decode(content), decode(turned_jpeg(6, 8, 16)))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 12, 20])
def test_damaged_exif_turns_nothing(decode, size):
    content = make_jpeg("RGB", 8, 16, extra=segment(0xE1, b"Exif\0\0" + exif(6)[:size]))
    assert np.array_equal(decode(content), decode(turned_jpeg(1, 8, 16)))


GOOD, PROGRESSIVE = make_jpeg("RGB", 40, 50), make_jpeg("RGB", 40, 50, progressive=True)
TWO_CHANNELS = segment(0xC0, struct.pack(">BHHB", 8, 9, 9, 2) + bytes((1, 0x11, 0, 2, 0x11, 0)))
PRECISION = frame_header(GOOD) + 4
HOSTILE = {
    "signature alone": (GOOD[:3], "cannot be decoded (Premature end of JPEG file); save it again"),
    "garbage": (SOI + b"\xff\xe0 not a jpeg at all" + bytes(100), "cannot be decoded ("),
    "no image": (GOOD[:20] + EOI, "cannot be decoded (JPEG datastream contains no image)"),
    "truncated": (GOOD[:-500], "cannot be decoded (Premature end of JPEG file)"),
    "truncated scans": (PROGRESSIVE[:-500], "cannot be decoded (Premature end of JPEG file)"),
    "no end": (GOOD[:-2], "cannot be decoded (Premature end of JPEG file)"),
    "data missing": (GOOD[:-500] + EOI, "cannot be decoded (Corrupt JPEG data: premature end of data segment)"),
    "no rows": (resized_jpeg(GOOD, 0, 50), "cannot be decoded (Empty JPEG image (DNL not supported))"),
    "bomb": (resized_jpeg(GOOD, 16000, 16000), "has 256000000 pixels, more than the 178956970 that are decoded"),
    "hollow": (resized_jpeg(GOOD, 9000, 9000), "cannot be decoded ("),
    "hollow scans": (resized_jpeg(PROGRESSIVE, 9000, 9000), "cannot be decoded ("),
    "12 bits": (
        GOOD[:PRECISION] + b"\x0c" + GOOD[PRECISION + 1 :],
        "cannot be decoded (Unsupported JPEG data precision",
    ),
    "two channels": (
        SOI + TWO_CHANNELS + segment(0xDA, bytes((2, 1, 0, 2, 0, 0, 63, 0))) + EOI,
        "has 2 colour channels; save it as grey, RGB or CMYK",
    ),
}


@pytest.mark.parametrize(("content", "sentence"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files(decode, content, sentence):
    result = decode(content)
    assert isinstance(result, str)
    assert sentence in result and result.endswith(".\n")
