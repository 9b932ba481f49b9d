"""COCO segmentations to compact run lengths and back, with everything checked that pycocotools' C code trusts.

Run lengths count pixels column by column, background first. As a string, COCO writes each as base-32 digits, lowest
first, with a sign and a continuation bit, from the third on as difference to the last but one.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np

from ...optional import importing

MAX_PIXELS = 2 * (1024**3 // 4 // 3)
"""Pillow's hard limit: no larger image could be read. Below it pycocotools' 32-bit arithmetic is safe."""

MAX_COORDINATE = 1e8
"""pycocotools multiplies coordinates by 5 and casts them to int32."""

MAX_BOUNDARY = 2**20
"""Longest boundary of one polygon, in pixels: pycocotools allocates 80 bytes for each, inside the image or not."""

_MAX_DIGITS = 6  # base 32 with a sign: enough for every difference of two counts below MAX_PIXELS


class Unusable(ValueError):
    """A segmentation gives no mask; the message goes on after "annotation 7 of image x.jpg in FILE"."""


def encode(segmentation: object, height: int, width: int) -> bytes:
    """A segmentation as it stands in COCO JSON to the string of its run lengths.

    Polygons are rasterised by pycocotools: what is outside the image is cut off, several are united.

    Args:
        segmentation: a list of polygons ``[x0, y0, x1, y1, ...]`` in pixels, or ``{"size": [h, w], "counts": ...}``
            with run lengths as a list or as COCO's string.
        height, width: of the image, at most `MAX_PIXELS` in all.

    Raises:
        Unusable: it is none of these, belongs to an image of another size, or covers no pixel.
        EnvironmentProblem: pycocotools is not installed.
    """
    if not segmentation:
        raise Unusable("has no segmentation")
    if isinstance(segmentation, list):
        polygons, coco_mask = [_checked_polygon(polygon) for polygon in segmentation], _coco_mask()
        merged = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        if coco_mask.area(merged) == 0:
            raise Unusable(f"covers no pixel of the image's {width}x{height}")
        return merged["counts"]
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise Unusable("has a segmentation that is neither polygons nor run lengths")
    if (size := segmentation.get("size")) != [height, width]:
        raise Unusable(f"has run lengths for an image of [height, width] {size}, not [{height}, {width}]")
    counts = segmentation["counts"]
    values = parse_counts(counts) if isinstance(counts, str) else _integers(counts)
    if values.min(initial=0) < 0 or values.max(initial=0) > height * width or values.sum() != height * width:
        raise Unusable(f"has run lengths that do not add up to the image's {width}x{height} pixels")
    if values[1::2].sum() == 0:
        raise Unusable(f"covers no pixel of the image's {width}x{height}")
    if isinstance(counts, str):
        return counts.encode("ascii")
    return _coco_mask().frPyObjects([{"size": [height, width], "counts": values}], height, width)[0]["counts"]


@cache  # annotations come by the million
def _coco_mask() -> ModuleType:
    with importing("pycocotools", "COCO's polygons and run lengths"):
        from pycocotools import mask
    return mask


def decode(counts: bytes, height: int, width: int) -> np.ndarray:
    """What `encode` gave, to (height, width) bool."""
    values = parse_counts(counts.decode("ascii"))
    return np.repeat(np.arange(len(values)) % 2 == 1, values).reshape(width, height).T


def parse_counts(text: str) -> np.ndarray:
    """COCO's string of run lengths to int64 counts, which may be negative or add up to anything.

    Raises:
        Unusable: the string is empty, ends inside a number, or holds other characters or numbers out of range.
    """
    digits = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise Unusable("has run lengths that are no string of COCO's")
    ends = np.flatnonzero(digits < 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (lengths := ends - starts + 1).max() > _MAX_DIGITS:
        raise Unusable("has run lengths that are no string of COCO's")
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    values = np.add.reduceat((digits & 31) << 5 * places, starts)
    values -= np.where(digits[ends] & 16, 1 << 5 * lengths, 0)
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return values


def _checked_polygon(polygon: object) -> np.ndarray:
    """(2 * points,) float64."""
    values = _numbers(polygon, "iuf", "has a polygon that is not a list of numbers").astype(np.float64)
    if len(values) < 6 or len(values) % 2:
        raise Unusable(f"has a polygon of {len(values)} numbers, not three or more pairs of x and y")
    if not np.abs(values).max() <= MAX_COORDINATE:
        raise Unusable("has a polygon with a coordinate that is not a finite number of pixels")
    points = values.reshape(-1, 2)
    # The last side closes the polygon; a side takes as many steps as its longer projection has pixels.
    boundary = np.abs(points - np.roll(points, 1, axis=0)).max(1).sum()
    if boundary > MAX_BOUNDARY:
        raise Unusable(f"has a polygon with a boundary of {boundary:.0f} pixels, more than {MAX_BOUNDARY}")
    return values


def _integers(counts: object) -> np.ndarray:
    return _numbers(counts, "iu", "has run lengths that are not a list of integers")


def _numbers(values: object, kinds: str, otherwise: str) -> np.ndarray:
    """A flat list of numbers as an array of a dtype of ``kinds``; anything else is `Unusable`: ``otherwise``."""
    try:
        array = np.array(values if isinstance(values, list) else None)
    except (ValueError, OverflowError):  # lists of different lengths
        raise Unusable(otherwise) from None
    if array.ndim != 1 or (array.size and array.dtype.kind not in kinds):
        raise Unusable(otherwise)
    return array
