"""Prompts lie where the masks are, are the same in every run, and refuse what is outside the image."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from sparsesam_deploy.accuracy.evaluation.prompts import FromFile, parse_prompt
from sparsesam_deploy.errors import InvalidInput
from sparsesam_deploy.model.decoder import PADDING
from tests.holdout import scenes

SIZE = (40, 60)


def some_masks() -> np.ndarray:
    """A rectangle, a ring (whose centre of mass is not on it), one pixel in a corner, everything."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = np.hypot(y - 20, x - 30)
    masks = [(y > 5) & (y < 12) & (x > 40), (distance < 16) & (distance > 10), (y == 39) & (x == 59), y >= 0]
    return np.stack(masks)


OBJECTS = ("rectangle", "ring", "pixel", "all")


def ask(kind: str, image: str = "a.png", seed: int = 0, objects=OBJECTS, masks=None):
    return parse_prompt(kind, seed).ask(image, objects, some_masks() if masks is None else masks)


def test_boxes_are_tight():
    assert ask("box").boxes.tolist() == [[41, 6, 59, 11], [15, 5, 45, 35], [59, 39, 59, 39], [0, 0, 59, 39]]


def test_boxes_are_those_of_the_holdout():
    scene = scenes()[3]
    names = tuple(map(str, range(len(scene.masks))))
    assert ask("box", objects=names, masks=scene.masks).boxes.tolist() == scene.boxes.tolist()


def test_jittered_boxes_move_by_a_tenth_at_most_and_stay_inside():
    tight, moved = ask("box").boxes, ask("jittered-box").boxes
    sides = np.tile(tight[:, 2:] - tight[:, :2] + 1, 2)
    assert (np.abs(moved - tight) <= 0.1 * sides).all()
    assert (moved[:, :2] >= 0).all() and (moved[:, 2:] <= (59, 39)).all()
    assert (np.abs(moved[1] - tight[1]) > 0).all()  # the ring, which touches no edge of the image


@pytest.mark.parametrize("kind", ["jittered-box", "random-3"])
def test_chance_depends_on_what_is_asked_and_on_nothing_else(kind):
    def values(**changes) -> np.ndarray:
        asked = ask(kind, **changes)
        return asked.boxes if asked.points is None else asked.points

    np.testing.assert_array_equal(values(), values())
    assert (values()[1] != values(seed=1)[1]).any()
    assert (values()[1] != values(image="b.png")[1]).any()
    alone = values(objects=("ring",), masks=some_masks()[1:2])
    np.testing.assert_array_equal(alone[0], values()[1])


def test_centers_are_the_deepest_pixels():
    for (x, y), mask in zip(ask("center").points[:, 0].astype(int), some_masks(), strict=True):
        depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        assert depth[y, x] == depth.max()


@pytest.mark.parametrize("count", [1, 3])
def test_random_points_are_distinct_pixels_of_the_mask(count):
    points = ask(f"random-{count}").points.astype(int)
    assert points.shape == (4, count, 2)
    for of_object, mask in zip(points, some_masks(), strict=True):
        assert mask[of_object[:, 1], of_object[:, 0]].all()
        assert len(np.unique(of_object, axis=0)) == min(count, mask.sum())


def test_random_points_are_uniform():
    mask = np.zeros((1, 20, 20), bool)
    mask[0, 3:7, 5:10] = True
    draws = [ask("random-1", seed=seed, objects=("one",), masks=mask).points[0, 0] for seed in range(2000)]
    counts = np.unique(np.array(draws), axis=0, return_counts=True)[1]
    assert len(counts) == 20
    assert counts == pytest.approx(100, abs=45)  # binomial: standard deviation 9.7


def test_the_decoder_gets_them_in_its_own_pixels():
    boxes = ask("box").prompts(SIZE, slice(1, 3))
    assert boxes.point_labels.tolist() == [[2, 3], [2, 3]]
    scale = np.array([1024 / 60, 683 / 40])
    np.testing.assert_allclose(boxes.point_coords[0], np.array([[15, 5], [45, 35]]) * scale, rtol=1e-6)
    points = ask("random-2").prompts(SIZE, slice(0, 4))
    assert points.point_labels.tolist() == [[1, 1, PADDING]] * 4
    np.testing.assert_allclose(points.point_coords[:, :2], ask("random-2").points * scale, rtol=1e-6)


def file_of(tmp_path, entries):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(entries))
    return path


def test_prompts_from_a_file(tmp_path):
    path = file_of(tmp_path, {"a.png": {"ring": {"box": [14, 4, 46, 36]}, "all": {"box": [0, 0, 60, 40]}}})
    asked = FromFile(path).ask("a.png", ("ring", "all"), some_masks()[[1, 3]])
    assert asked.boxes.tolist() == [[14, 4, 46, 36], [0, 0, 60, 40]]
    path = file_of(tmp_path, {"a.png": {"ring": {"points": [[18, 20], [30, 8]]}}})
    assert FromFile(path).ask("a.png", ("ring",), some_masks()[1:2]).points.tolist() == [[[18, 20], [30, 8]]]


REFUSED = {
    "no-image": ({}, "has no"),
    "no-object": ({"a.png": {"other": {"box": [1, 1, 2, 2]}}}, "has no"),
    "both": ({"a.png": {"ring": {"box": [1, 1, 2, 2], "points": [[1, 1]]}}}, "has no"),
    "three-numbers": ({"a.png": {"ring": {"box": [1, 1, 2]}}}, "not numbers"),
    "words": ({"a.png": {"ring": {"box": ["a", 1, 2, 3]}}}, "not numbers"),
    "nan": ({"a.png": {"ring": {"points": [[float("nan"), 1]]}}}, "not numbers"),
    "no-points": ({"a.png": {"ring": {"points": []}}}, "not numbers"),
    "outside": ({"a.png": {"ring": {"points": [[61, 3]]}}}, "outside the image of 60x40"),
    "negative": ({"a.png": {"ring": {"box": [-1, 0, 5, 5]}}}, "outside the image of 60x40"),
}


@pytest.mark.parametrize(("entries", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_file_is_refused_by_image_and_object(tmp_path, entries, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        FromFile(file_of(tmp_path, entries)).ask("a.png", ("ring",), some_masks()[1:2])
    assert "image a.png, object ring" in str(caught.value)


def test_a_mixture_is_refused(tmp_path):
    path = file_of(tmp_path, {"a.png": {"ring": {"box": [1, 1, 2, 2]}, "all": {"points": [[1, 1]]}}})
    with pytest.raises(InvalidInput, match="mixes boxes and points"):
        FromFile(path).ask("a.png", ("ring", "all"), some_masks()[[1, 3]])


@pytest.mark.parametrize("text", ["[1]", "{", "\xff"])
def test_no_json_object_is_refused(tmp_path, text):
    path = tmp_path / "prompts.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidInput, match=r"prompt file .*prompts\.json"):
        FromFile(path)


@pytest.mark.parametrize("text", ["boxes", "random-0", "random-", "random-100", ""])
def test_unknown_kinds_are_refused(text):
    with pytest.raises(InvalidInput, match="choose box, jittered-box"):
        parse_prompt(text)
