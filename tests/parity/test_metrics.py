"""Figures against plain arithmetic, masks against COCO's tools, boundaries against the published procedure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sparsesam_deploy.parity.metrics import boundary_iou, cosine, mask_iou, max_abs, median_error, relative_l2

SIZES = [(1, 1), (1, 40), (7, 5), (25, 25), (30, 200), (96, 128)]


def pair(dtype=np.float32) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    return tuple(generator.normal(size=(2, 3, 50)).astype(dtype) for _ in range(2))


# --- tensors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_figures_are_the_textbook_ones(dtype):
    actual, expected = pair(dtype)
    a, e = ([float(x) for x in values.ravel()] for values in (actual, expected))
    squares = math.fsum((x - y) ** 2 for x, y in zip(a, e, strict=True))
    lengths = [math.sqrt(math.fsum(x * x for x in values)) for values in (a, e)]
    assert relative_l2(actual, expected) == pytest.approx(math.sqrt(squares) / lengths[1], rel=1e-12)
    dot = math.fsum(x * y for x, y in zip(a, e, strict=True))
    assert cosine(actual, expected) == pytest.approx(dot / lengths[0] / lengths[1], rel=1e-12)
    assert max_abs(actual, expected) == max(abs(x - y) for x, y in zip(a, e, strict=True))


def test_median_error_is_that_of_most_positions():
    """Embeddings of 4x4 positions: seven may be anything, the eighth decides together with the ninth."""
    expected = np.ones((1, 9, 4, 4))
    actual = expected + 0.01
    assert median_error(actual, expected) == pytest.approx(0.01)
    actual[0, :, :, 0] = 5
    actual[0, :, :3, 1] = -5
    assert median_error(actual, expected) == pytest.approx(0.01)
    actual[0, :, :, 1:3] = 5
    assert median_error(actual, expected) == pytest.approx(4)


def test_the_error_of_an_update_does_not_depend_on_the_stream():
    update, wrong = pair(np.float64)
    base = np.full(update.shape, 1000.0)
    assert relative_l2(base + wrong, base + update, base) == pytest.approx(relative_l2(wrong, update), rel=1e-9)


def test_equal_tensors():
    x, _ = pair()
    assert (relative_l2(x, x), cosine(x, x), max_abs(x, x)) == (0, pytest.approx(1, abs=1e-15), 0)
    assert relative_l2(np.zeros(3), np.zeros(3)) == 0
    assert relative_l2(x, x, x) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_tensors_are_compared_in_float64_as_arrays_are(dtype):
    actual, expected, base = (torch.from_numpy(values).to(dtype) for values in (*pair(), pair()[0] - pair()[1]))
    arrays = [tensor.double().numpy() for tensor in (actual, expected, base)]
    assert relative_l2(actual, expected) == pytest.approx(relative_l2(*arrays[:2]), rel=1e-12)
    assert relative_l2(actual, expected, base) == pytest.approx(relative_l2(*arrays), rel=1e-12)
    assert relative_l2(actual.float(), expected) == relative_l2(actual, expected)  # of two dtypes
    assert relative_l2(expected, expected) == relative_l2(0 * actual, 0 * actual) == 0
    assert relative_l2(actual, 0 * actual) > 1e300


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("where", ["actual", "expected", "both"])
def test_what_is_not_finite_can_pass_no_threshold(value, where):
    actual, expected = pair()
    for name, tensor in (("actual", actual), ("expected", expected)):
        if where in (name, "both"):
            tensor[0, 0, 0] = value
    assert (relative_l2(actual, expected), cosine(actual, expected), max_abs(actual, expected)) == (np.inf, -1, np.inf)
    assert relative_l2(actual, expected, np.zeros_like(actual)) == np.inf
    assert relative_l2(torch.from_numpy(actual), torch.from_numpy(expected)) == np.inf
    assert median_error(actual, expected) == np.inf


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nothing_is_infinitely_large_enough_to_excuse_an_error():
    actual, expected = pair()
    base = np.zeros_like(actual)
    base[0, 0, 0] = np.inf
    assert relative_l2(actual, expected, base) == np.inf
    huge = np.full(4, 1e30, np.float32)  # its square overflows float32
    assert relative_l2(huge * 1.5, huge) == pytest.approx(0.5, rel=1e-6)
    assert relative_l2(torch.from_numpy(huge * 1.5), torch.from_numpy(huge)) == pytest.approx(0.5, rel=1e-6)
    assert relative_l2(np.ones(3), np.zeros(3)) > 1e300


# --- masks -------------------------------------------------------------------------------------------------------


def blobs(shape: tuple[int, int], seed: int) -> np.ndarray:
    """A mask with a few rectangles and holes, some at the edge."""
    generator = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    for filled in (True, True, False, True):
        top, left = (generator.integers(0, size) for size in shape)
        height, width = (generator.integers(1, size + 1) for size in shape)
        mask[top : top + height, left : left + width] = filled
    return mask


def special(shape: tuple[int, int]) -> list[np.ndarray]:
    """Empty, full, one pixel in a corner, one in the middle."""
    masks = [np.zeros(shape, bool), np.ones(shape, bool), np.zeros(shape, bool), np.zeros(shape, bool)]
    masks[2][0, 0] = masks[3][shape[0] // 2, shape[1] // 2] = True
    return masks


def some_masks(shape: tuple[int, int]) -> list[np.ndarray]:
    noise = np.random.default_rng(9).random(shape) < 0.5
    return [*(blobs(shape, seed) for seed in range(4)), noise, *special(shape)]


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_iou_is_cocos(shape):
    coco = pytest.importorskip("pycocotools.mask")
    masks = [mask for mask in some_masks(shape) if mask.any()]
    encoded = [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    expected = coco.iou(encoded, encoded, [0] * len(masks))
    assert np.array([[mask_iou(a, b) for b in masks] for a in masks]) == pytest.approx(expected, abs=1e-12)


def test_iou_of_empty_masks():
    empty, full, corner, _ = special((4, 6))
    assert [mask_iou(empty, empty), mask_iou(empty, full), mask_iou(corner, full)] == [1, 0, 1 / 24]
    assert [boundary_iou(empty, empty), boundary_iou(empty, full), boundary_iou(corner, corner)] == [1, 0, 1]


def mask_to_boundary(mask: np.ndarray) -> np.ndarray:
    """Cheng et al., boundary-iou-api: pad with one ring of zeros, erode by 3x3 ``dilation`` times, subtract.

    OpenCV erodes an image's edge as if ones were outside.
    """
    height, width = mask.shape
    dilation = max(1, round(0.02 * math.sqrt(height**2 + width**2)))
    eroded = np.pad(mask, 1)
    for _ in range(dilation):
        outside = np.pad(eroded, 1, constant_values=True)
        rows = outside[:-2] & outside[1:-1] & outside[2:]
        eroded = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]
    return mask & ~eroded[1:-1, 1:-1]


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_boundary_iou_is_the_published_one(shape):
    masks = some_masks(shape)
    for a in masks:
        for b in masks:
            boundary_a, boundary_b = mask_to_boundary(a), mask_to_boundary(b)
            union = (boundary_a | boundary_b).sum()
            expected = (boundary_a & boundary_b).sum() / union if union else 1.0
            assert boundary_iou(a, b) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("side", "width"), [(20, 1), (100, 3), (500, 14)])
def test_the_band_is_two_percent_of_the_diagonal(side, width):
    full, inside = np.ones((side, side), bool), np.zeros((side, side), bool)
    inside[width:-width, width:-width] = True
    frame = full & ~inside
    assert boundary_iou(full, frame) == 1
    inside[width] = inside[:, width] = False
    thicker = full & ~inside
    assert boundary_iou(full, thicker) == frame.sum() / thicker.sum()
