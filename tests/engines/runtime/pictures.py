"""Image files of every kind: PNG written without a library and its limits, JPEG by Pillow and then edited."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
KINDS = [(GREY, bits) for bits in (1, 2, 4, 8, 16)] + [(PALETTE, bits) for bits in (1, 2, 4, 8)]
KINDS += [(colour, bits) for colour in (RGB, GREY_ALPHA, RGB_ALPHA) for bits in (8, 16)]
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column of each pass of an interlaced PNG, and the steps to the next."""


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def make_png(
    colour: int, bits: int, height: int, width: int, *, extra: tuple[bytes, ...] = (), interlaced: bool = False
) -> bytes:
    """A PNG of random pixels; ``extra`` chunks stand before the pixels. Interlaced ones have whole bytes."""
    random = np.random.default_rng(colour * 100 + bits)
    row_bytes = (width * CHANNELS[colour] * bits + 7) // 8
    rows = random.integers(0, 256, (height, row_bytes), np.uint8)
    rows[:, -1] &= 0xFF << (-width * CHANNELS[colour] * bits % 8) & 0xFF  # bits behind the last pixel
    pixels = rows.reshape(height, width, -1) if interlaced else rows[:, None]
    passes = [pixels[y::down, x::right] for y, x, down, right in (ADAM7 if interlaced else [(0, 0, 1, 1)])]
    filtered = b"".join(b"\0" + row.tobytes() for part in passes if part.shape[1] for row in part)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    palette = random.integers(0, 256, 3 << bits if bits < 8 else 768, np.uint8).tobytes()
    parts = [chunk(b"IHDR", header)]
    parts += [chunk(b"PLTE", palette)] if colour == PALETTE else []
    parts += [*extra, chunk(b"IDAT", zlib.compress(filtered)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def exif(orientation: int, little: bool = True) -> bytes:
    """An EXIF block that says how the image was turned."""
    order, mark = ("<", b"II*\0") if little else (">", b"MM\0*")
    return mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def turned_png(orientation: int, height: int = 2, width: int = 3, little: bool = True) -> bytes:
    return make_png(RGB, 8, height, width, extra=(chunk(b"eXIf", exif(orientation, little)),))


# --- JPEG --------------------------------------------------------------------------------------------------------

SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def make_jpeg(mode: str, height: int, width: int, *, extra: bytes = b"", **options) -> bytes:
    """A JPEG of edges, gradients and noise; ``extra`` segments stand before all others, ``options`` are Pillow's."""
    random = np.random.default_rng(height + width)
    y, x = np.mgrid[:height, :width]
    pixels = np.stack((x * 5 % 256, y * 3 % 256, (x // 3 + y // 2) % 2 * 255), -1) + random.integers(
        0, 20, (height, width, 3)
    )
    image = Image.fromarray(np.minimum(pixels, 255).astype(np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, "jpeg", **options)
    return SOI + extra + file.getvalue()[2:]


def turned_jpeg(orientation: int, height: int = 16, width: int = 24, little: bool = True) -> bytes:
    return make_jpeg("RGB", height, width, extra=segment(0xE1, b"Exif\0\0" + exif(orientation, little)))


def frame_header(content: bytes) -> int:
    """Where the marker of a JPEG's frame stands; its precision is 4 bytes behind, height and width 5 and 7."""
    return next(at for at in (content.find(b"\xff\xc0\0"), content.find(b"\xff\xc2\0")) if at >= 0)


def resized_jpeg(content: bytes, height: int, width: int) -> bytes:
    """A JPEG that claims another size than it has."""
    at = frame_header(content) + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def upended_jpeg(content: bytes) -> bytes:
    """A JPEG of 4:2:2 as one of 4:4:0, which Pillow does not write: the same number of blocks, stacked."""
    at = frame_header(content)
    height, width = struct.unpack(">HH", content[at + 5 : at + 9])
    assert content[at + 11] == 0x21
    return resized_jpeg(content[: at + 11] + b"\x12" + content[at + 12 :], width, height)
