"""PNG files of every kind, written without a PNG library so that none of its limits apply."""

from __future__ import annotations

import struct
import zlib

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
KINDS = [(GREY, bits) for bits in (1, 2, 4, 8, 16)] + [(PALETTE, bits) for bits in (1, 2, 4, 8)]
KINDS += [(colour, bits) for colour in (RGB, GREY_ALPHA, RGB_ALPHA) for bits in (8, 16)]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def make_png(
    colour: int, bits: int, height: int, width: int, *, extra: tuple[bytes, ...] = (), interlaced: bool = False
) -> bytes:
    """A PNG of random pixels; ``extra`` chunks stand before the pixels. An interlaced one is a single pixel."""
    random = np.random.default_rng(colour * 100 + bits)
    row_bytes = (width * CHANNELS[colour] * bits + 7) // 8
    rows = random.integers(0, 256, (height, row_bytes), np.uint8)
    rows[:, -1] &= 0xFF << (-width * CHANNELS[colour] * bits % 8) & 0xFF  # bits behind the last pixel
    filtered = np.concatenate((np.zeros((height, 1), np.uint8), rows), 1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    palette = random.integers(0, 256, 3 << bits if bits < 8 else 768, np.uint8).tobytes()
    parts = [chunk(b"IHDR", header)]
    parts += [chunk(b"PLTE", palette)] if colour == PALETTE else []
    parts += [*extra, chunk(b"IDAT", zlib.compress(filtered)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def orientation(value: int, little: bool = True) -> bytes:
    """An eXIf chunk that says how the image was turned."""
    order, mark = ("<", b"II*\0") if little else (">", b"MM\0*")
    return chunk(b"eXIf", mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0))
