"""Run lengths against pycocotools and their definition, and segmentations that would harm its C code."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sparsesam_deploy.accuracy.data.rle import MAX_BOUNDARY, Unusable, decode, encode, parse_counts
from tests.accuracy.data.instances import HEIGHT, SIZE, TRIANGLE, WIDTH, compressed, random_mask, run_lengths


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999], ids=str)
def test_run_lengths_of_random_masks_come_back(share):
    for seed in range(20):
        mask = random_mask(seed, share)
        mask[seed, seed] = True
        as_list = encode({"size": SIZE, "counts": run_lengths(mask)}, HEIGHT, WIDTH)
        as_text = encode(compressed(mask), HEIGHT, WIDTH)
        assert np.array_equal(decode(as_list, HEIGHT, WIDTH), mask)
        assert np.array_equal(decode(as_text, HEIGHT, WIDTH), mask)
        assert parse_counts(compressed(mask)["counts"]).tolist() == run_lengths(mask)


def test_long_run_lengths_are_parsed():
    mask = np.zeros((3000, 2000), bool)
    mask[2000:, 1500] = mask[0, 1] = mask[-1, -1] = True
    assert parse_counts(compressed(mask)["counts"]).tolist() == run_lengths(mask)


PIXELS = HEIGHT * WIDTH
UNUSABLE = {
    "none": (None, "has no segmentation"),
    "empty": ([], "has no segmentation"),
    "empty polygon": ([[]], "polygon of 0 numbers"),
    "outside": ([[100.0, 100.0, 120.0, 100.0, 120.0, 120.0]], "covers no pixel"),
    "left outside": ([[-30.0, 1.0, -10.0, 1.0, -10.0, 20.0]], "covers no pixel"),
    "sliver": ([[3.0, 3.0, 9.0, 3.0, 9.0, 3.0]], "covers no pixel"),
    "odd": ([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]], "polygon of 7 numbers"),
    "a box, to pycocotools": ([[1.0, 2.0, 3.0, 4.0]], "polygon of 4 numbers"),
    "second is bad": ([TRIANGLE, [1.0, 2.0]], "polygon of 2 numbers"),
    "text": ([["1", "2", "3", "4", "5", "6"]], "not a list of numbers"),
    "null": ([[1, 2, None, 4, 5, 6]], "not a list of numbers"),
    "nested": ([[[1, 2], [3, 4], [5, 6]]], "not a list of numbers"),
    "ragged": ([[[1, 2], [3], 5]], "not a list of numbers"),
    "flat": (TRIANGLE, "not a list of numbers"),
    "not finite": ([[1.0, 2.0, float("nan"), 4.0, 5.0, 6.0]], "not a finite number"),
    "infinite": ([[1.0, 2.0, float("inf"), 4.0, 5.0, 6.0]], "not a finite number"),
    "far away": ([[1.0, 2.0, 1e12, 4.0, 5.0, 6.0]], "not a finite number"),
    "endless": ([[0.0, 0.0, 9e7, 0.0, 0.0, 9e7]], f"more than {MAX_BOUNDARY}"),
    "zigzag": ([[0.0, 0.0, 9e4, 9e4] * 20], f"more than {MAX_BOUNDARY}"),
    "word": ("polygon", "neither polygons nor run lengths"),
    "no counts": ({"size": SIZE}, "neither polygons nor run lengths"),
    "transposed": ({"size": SIZE[::-1], "counts": [0, PIXELS]}, "for an image of [height, width] [32, 24]"),
    "no size": ({"counts": [0, PIXELS]}, "for an image of [height, width] None"),
    "too few": ({"size": SIZE, "counts": [5, 5]}, "do not add up"),
    "too many": ({"size": SIZE, "counts": [0, PIXELS + 1]}, "do not add up"),
    "no counts at all": ({"size": SIZE, "counts": []}, "do not add up"),
    "negative": ({"size": SIZE, "counts": [10, -5, PIXELS - 5]}, "do not add up"),
    "wrapping": ({"size": SIZE, "counts": [2**62, 2**62, 2**62, 2**62, PIXELS]}, "do not add up"),
    "fractions": ({"size": SIZE, "counts": [0.5, PIXELS - 0.5]}, "not a list of integers"),
    "background": ({"size": SIZE, "counts": [PIXELS]}, "covers no pixel"),
    "compressed background": (compressed(np.zeros(SIZE)), "covers no pixel"),
    "compressed, too long": (
        {"size": SIZE, "counts": compressed(np.ones((99, 99)))["counts"]},
        "do not add up",
    ),
    "compressed, negative": ({"size": SIZE, "counts": "0O"}, "do not add up"),
    "compressed, cut": ({"size": SIZE, "counts": "0P"}, "no string of COCO's"),
    "compressed, other letters": ({"size": SIZE, "counts": "0~"}, "no string of COCO's"),
    "compressed, not ASCII": ({"size": SIZE, "counts": "0\u00e9"}, "no string of COCO's"),
    "compressed, empty": ({"size": SIZE, "counts": ""}, "no string of COCO's"),
    "compressed, a huge number": ({"size": SIZE, "counts": "0" + "o" * 100_000 + "0"}, "no string of COCO's"),
}


@pytest.mark.parametrize(("segmentation", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_gives_no_mask_is_refused_with_the_reason(segmentation, reason):
    with pytest.raises(Unusable, match=re.escape(reason)):
        encode(segmentation, HEIGHT, WIDTH)
