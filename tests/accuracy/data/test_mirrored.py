"""The eight symmetries of the square, against numpy's own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sparsesam_deploy.accuracy.data.dataset import LabelledImage
from sparsesam_deploy.accuracy.data.mirrored import SYMMETRIES, Mirrored
from sparsesam_deploy.errors import InvalidInput


class Two:
    """Two images of different sizes, the second without ground truth."""

    description, names, has_truth, fingerprint, left_out = "two", ["a.png", "b.png"], True, "f" * 64, {"crowds": 3}

    def load(self, index: int) -> LabelledImage:
        generator = np.random.default_rng(index)
        shape = (3 + index, 5)
        pixels = generator.integers(0, 256, (*shape, 3), np.uint8)
        if index:
            return LabelledImage(pixels, None)
        return LabelledImage(pixels, generator.random((2, *shape)) < 0.5, ("7", "8"), ("annotation 9 is bad",))


NUMPY = (
    lambda a: a,
    np.fliplr,
    np.flipud,
    lambda a: np.rot90(a, 2),
    lambda a: np.rot90(np.fliplr(a)),
    np.rot90,
    lambda a: np.rot90(a, -1),
    lambda a: np.rot90(np.flipud(a)),
)


def test_each_image_is_shown_in_all_eight_and_called_by_them():
    mirrored = Mirrored(Two(), 8)
    assert (len(mirrored.names), len({*mirrored.names}), mirrored.symmetries) == (16, 16, 8)
    assert [mirrored.names[index] for index in (0, 1, 8, 15)] == [
        "a.png",
        "a.png|left-right",
        "b.png",
        "b.png|anti-transposed",
    ]
    assert [mirrored.source(index) for index in range(16)] == ["a.png"] * 8 + ["b.png"] * 8
    assert (mirrored.has_truth, mirrored.left_out) == (True, {"crowds": 3})
    original = Two().load(0)
    for index, (symmetry, turn) in enumerate(zip(SYMMETRIES, NUMPY, strict=True)):
        image = mirrored.load(index)
        assert np.array_equal(image.pixels, turn(original.pixels)), symmetry
        assert np.array_equal(image.masks, [turn(mask) for mask in original.masks]), symmetry
        assert (image.objects, image.problems) == (original.objects, original.problems)
        assert image.pixels.flags.c_contiguous and image.masks.flags.c_contiguous
        assert image.masks.dtype == np.bool_


def test_without_ground_truth_there_is_none_to_mirror():
    image = Mirrored(Two(), 2).load(3)
    assert image.masks is None
    assert np.array_equal(image.pixels, np.fliplr(Two().load(1).pixels))


def test_the_symmetries_are_all_those_of_the_square():
    square = np.arange(9).reshape(3, 3)
    turned = [turn(square) for _, turn in SYMMETRIES]
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(turned, 2))


def test_one_symmetry_is_the_data_set_itself():
    mirrored = Mirrored(Two(), 1)
    for attribute in ("description", "names", "has_truth", "fingerprint", "left_out"):
        assert getattr(mirrored, attribute) == getattr(Two(), attribute)
    assert np.array_equal(mirrored.load(1).pixels, Two().load(1).pixels)


def test_more_symmetries_are_another_data_set():
    fingerprints = [Mirrored(Two(), symmetries).fingerprint for symmetries in range(1, 9)]
    assert len({*fingerprints}) == 8
    assert Mirrored(Two(), 4).description == "two, in 4 mirrorings"


@pytest.mark.parametrize("symmetries", [0, 9, -1])
def test_other_numbers_of_symmetries_are_refused(symmetries):
    with pytest.raises(InvalidInput, match=f"{symmetries} symmetries; the square has 1 to 8"):
        Mirrored(Two(), symmetries)
