"""Intervals are those that statistics know, over images and not over objects."""

from __future__ import annotations

import numpy as np
import pytest

from sparsesam_deploy.accuracy.evaluation.statistics import Sample


def sample_of(by_image: dict[str, list[float]]) -> Sample:
    sample = Sample({})
    for image, values in by_image.items():
        sample.add(image, np.array(values))
    return sample


def test_the_mean_is_over_objects():
    interval = sample_of({"a": [1.0, 0.0, 0.5], "b": [0.9]}).interval()
    assert interval.mean == pytest.approx(2.4 / 4)
    assert interval.low <= interval.mean <= interval.high


def test_the_interval_of_many_images_is_the_normal_one():
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    interval = sample_of({str(index): [value] for index, value in enumerate(values)}).interval()
    expected = 1.96 * values.std(ddof=1) / 20
    assert interval.high - interval.mean == pytest.approx(expected, rel=0.1)
    assert interval.mean - interval.low == pytest.approx(expected, rel=0.1)


def test_more_objects_that_say_the_same_add_nothing():
    rng = np.random.default_rng(2)
    values = {str(index): [float(rng.normal())] for index in range(30)}
    once, often = (
        sample_of(values).interval(),
        sample_of({name: value * 8 for name, value in values.items()}).interval(),
    )
    assert (often.mean, often.low, often.high) == pytest.approx((once.mean, once.low, once.high), abs=1e-12)


def test_images_are_weighted_by_their_objects():
    """By brute force over all ordered draws of two images from two."""
    a, b = [0.2] * 3, [0.8]
    interval = sample_of({"a": a, "b": b}).interval()
    assert (interval.low, interval.high) == pytest.approx((0.2, 0.8))
    assert interval.mean == pytest.approx(0.35)


def test_one_image_has_no_spread():
    interval = sample_of({"a": [0.25, 0.75]}).interval()
    assert (interval.low, interval.mean, interval.high) == (0.5, 0.5, 0.5)
