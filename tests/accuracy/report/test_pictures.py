"""The report's pictures: what is drawn where, read back from the data addresses."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sparsesam_deploy.accuracy.report.pictures import (
    LONGEST_SIDE,
    THUMBNAIL_SIDE,
    Case,
    KeptTokens,
    case_pictures,
    kept_share,
    thumbnail,
    veil,
)

ORANGE, BLUE, TEAL, YELLOW = ((240, 110, 20), (60, 140, 255), (29, 200, 180), (255, 224, 102))


def read(address: str, kind: str) -> Image.Image:
    head, data = address.split(",")
    assert head == f"data:image/{kind};base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def rectangle(top: int, bottom: int, left: int, right: int, size: tuple[int, int] = (200, 300)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def case(**changes) -> Case:
    """A grey picture of 200 x 300; dense and sparse are the left and the right three quarters of the object."""
    values = {
        "variant": "v",
        "image": "i.png",
        "object": "1",
        "prompt": "box",
        "pixels": np.full((200, 300, 3), 128, np.uint8),
        "truth": None,
        "dense": rectangle(80, 120, 100, 160),
        "sparse": rectangle(80, 120, 120, 180),
        "box": None,
        "points": (),
        "iou": 0.5,
        "dense_iou": 0.9,
        "agreement": 0.5,
    }
    return Case(**(values | changes))


def near(picture: np.ndarray, colour: tuple[int, int, int], distance: float = 60) -> np.ndarray:
    return np.linalg.norm(picture.astype(float) - colour, axis=2) < distance


def test_difference_shows_what_was_lost_and_what_was_gained():
    pictures = case_pictures(case())
    picture = np.asarray(read(pictures.difference, "jpeg").convert("RGB"))
    scale = LONGEST_SIDE / (80 + 2 * 36)  # the object and 0.45 of it on each side
    lost, gained = near(picture, ORANGE), near(picture, BLUE)
    for found, start in ((lost, 100), (gained, 160)):
        columns = np.nonzero(found)[1]
        assert found.sum() == pytest.approx(20 * 40 * scale**2, rel=0.1)
        assert columns.mean() == pytest.approx((start + 10 - (100 - 35.55)) * scale, rel=0.03)
    assert not (lost & gained).any()


@pytest.mark.parametrize("which, first, last", [("dense", 100, 160), ("sparse", 120, 180)])
def test_each_side_has_its_own_mask(which, first, last):
    whole = case(box=(0, 0, 299, 199))  # the prompt keeps the picture from being cut
    pictures = case_pictures(whole)
    assert (pictures.width, pictures.height, pictures.cropped) == (640, 427, False)
    picture = np.asarray(read(getattr(pictures, which), "jpeg").convert("RGB")).astype(float)
    tinted = picture[..., 1] - picture[..., 0] > 30
    columns = np.nonzero(tinted.any(0))[0] * 300 / 640
    assert columns.min() == pytest.approx(first, abs=2) and columns.max() == pytest.approx(last, abs=2)


def test_outline_of_the_truth_is_in_all_three():
    truth = rectangle(60, 140, 90, 200)
    pictures = case_pictures(case(truth=truth))
    for address in (pictures.dense, pictures.sparse, pictures.difference):
        assert near(np.asarray(read(address, "jpeg").convert("RGB")), YELLOW).sum() > 500
    assert not near(np.asarray(read(case_pictures(case()).dense, "jpeg").convert("RGB")), YELLOW).any()


def test_small_objects_are_cut_out_and_enlarged():
    speck = rectangle(100, 104, 200, 204)
    pictures = case_pictures(case(dense=speck, sparse=speck))
    assert pictures.cropped and (pictures.width, pictures.height) == (640, 640)
    assert read(pictures.sparse, "jpeg").size == (640, 640)


PROMPTS = {
    "none": {},
    "box-outside": {"box": (-50.0, -20.0, 900.0, 700.0)},
    "reversed-box": {"box": (150.0, 120.0, 50.0, 20.0)},
    "point-outside": {"points": ((1000.0, -4.0),)},
    "edge": {"points": ((299.0, 199.0), (0.0, 0.0))},
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("empty", [False, True], ids=["masks", "no-masks"])
def test_prompts_and_masks_of_any_kind(prompt, empty):
    masks = {"dense": rectangle(0, 0, 0, 0), "sparse": rectangle(0, 0, 0, 0)} if empty else {}
    pictures = case_pictures(case(**prompt, **masks))
    assert read(pictures.dense, "jpeg").size == (pictures.width, pictures.height)
    assert max(pictures.width, pictures.height) == LONGEST_SIDE


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_point_is_drawn_white_where_it_is(cut):
    speck = rectangle(90, 110, 140, 160)
    box = None if cut else (0.0, 0.0, 299.0, 199.0)
    masks = {"dense": speck, "sparse": speck, "pixels": np.zeros((200, 300, 3), np.uint8)}
    pictures = case_pictures(case(points=((145.0, 104.0),), box=box, **masks))
    picture = np.asarray(read(pictures.dense, "jpeg").convert("L"))
    top, left, scale = (90 - 32, 140 - 32, 640 / (20 + 64)) if cut else (0, 0, 640 / 300)
    rows, columns = np.nonzero(picture[20:-20, 20:-20] > 230)
    assert columns.mean() + 20 == pytest.approx((145 - left) * scale, abs=4)
    assert rows.mean() + 20 == pytest.approx((104 - top) * scale, abs=4)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (3000, 20)], ids=str)
def test_odd_sizes(size):
    mask = np.ones(size, bool)
    pixels = np.zeros((*size, 3), np.uint8)
    pictures = case_pictures(case(pixels=pixels, dense=mask, sparse=mask))
    assert min(pictures.width, pictures.height) >= 1
    assert max(read(thumbnail(pixels), "jpeg").size) <= THUMBNAIL_SIDE
    assert min(read(veil(KeptTokens("v", "i", 0, "w", np.ones((64, 64)), pixels)), "png").size) >= 1


def tokens(kept: np.ndarray, height: int, width: int) -> KeptTokens:
    return KeptTokens("v", "i.png", 3, "MLP rows", kept, np.zeros((height, width, 3), np.uint8))


@pytest.mark.parametrize("height, width", [(512, 512), (384, 512), (600, 200)], ids=str)
def test_veil_lies_on_the_image_token_by_token(height, width):
    kept = np.random.default_rng(0).random((64, 64)).round()
    picture = read(veil(tokens(kept, height, width)), "png")
    assert picture.mode == "RGBA"
    assert picture.width / picture.height == pytest.approx(width / height, rel=0.01)
    read_back = np.asarray(picture)
    for row in range(0, picture.height // 4, 5):
        for column in range(0, picture.width // 4, 5):
            pixel = read_back[4 * row + 2, 4 * column + 2]
            assert tuple(pixel[:3]) == (TEAL if kept[row, column] else (0, 0, 0))
            assert 90 < pixel[3] < 170


def test_share_counts_tokens_on_the_image_only():
    kept = np.zeros((64, 64))
    kept[:48] = 0.25  # the upper three quarters; below is padding
    assert kept_share(tokens(kept, 384, 512)) == 0.25
    assert kept_share(tokens(kept, 512, 512)) == pytest.approx(0.1875)
    assert kept_share(replace(tokens(kept, 384, 512), kept=1 - kept)) == 0.75
