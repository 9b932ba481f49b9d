"""What thinning costs on the trained nano model agrees with section 7 of the algorithm's specification."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.holdout import scenes
from benchmarks.section7 import PUBLISHED, Comparison, variants
from sparsesam_deploy.model.config import PRESETS
from sparsesam_deploy.model.encoder import SparseSamEncoder
from tests.networks import nano

DENSITY = 0.4
AGREEMENT = 0.01  # of a change of mean IoU
ERROR_AGREEMENT = 0.3  # of an embedding error, relative
ROWS = ("released code", "lattice", "skip, sobel", "share, variance", "lattice + share, variance")

# One run of six encoders on twelve images serves all tests: minutes on two cores, and one worker should do it.
pytestmark = [pytest.mark.timeout(1800), pytest.mark.xdist_group("section7")]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    sam, config = nano()
    encoders = {name: SparseSamEncoder(sam.image_encoder, config, variants(DENSITY)[name]).eval() for name in ROWS}
    comparison = Comparison(sam, encoders)
    for scene in scenes():
        comparison.add(scene)
    return comparison


def test_released_code_is_the_paper_preset():
    assert variants(DENSITY)["released code"] == PRESETS["paper"]


def test_boxes_are_those_of_the_mask(comparison):
    """The dense model segments as its card says, so masks, boxes and preprocessing are what it was trained for."""
    assert comparison.dense_iou() == pytest.approx({"box": 0.88, "point": 0.80}, abs=0.03)


@pytest.mark.parametrize("row", ROWS)
def test_box_iou_change(comparison, row):
    """Within 0.01, and within the sampling error of 12 images: sharing and thin attention are known to 0.002 here.

    Skipping is not (0.015): it loses one object in sixty and keeps the rest, so its mean hangs on single objects.
    """
    found = comparison.outcome(row)
    allowed = AGREEMENT + (2 * found.standard_error["box"] if row in ("released code", "skip, sobel") else 0.0)
    assert found.change["box"] == pytest.approx(PUBLISHED[row][DENSITY][0], abs=allowed)


@pytest.mark.parametrize("row", ROWS)
def test_embedding_error(comparison, row):
    assert comparison.outcome(row).embedding_error == pytest.approx(PUBLISHED[row][DENSITY][2], rel=ERROR_AGREEMENT)


def test_skipping_costs_and_sharing_does_not(comparison):
    cost = {row: -np.mean(list(comparison.outcome(row).change.values())) for row in ROWS}
    assert min(cost["released code"], cost["skip, sobel"]) > 2 * max(cost["lattice"], cost["share, variance"])
