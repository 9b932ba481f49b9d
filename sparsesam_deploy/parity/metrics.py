"""Figures that compare tensors and masks."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

A = TypeVar("A", np.ndarray, Tensor)

BOUNDARY_RATIO = 0.02
"""Width of the boundary band as a share of the image diagonal (Cheng et al., "Boundary IoU", arXiv 2103.16562)."""


def relative_l2(actual: A, expected: A, base: A | None = None) -> float:
    """|actual - expected| / |expected - base|, Euclidean over all entries, in float64; ``base`` defaults to zero.

    All are arrays, or all are tensors on one device, where they are compared. Not-a-number or infinite entries give
    infinity: they must never pass a threshold.
    """
    difference, size = _distance(actual, expected), _distance(expected, 0 if base is None else base)
    ratio = difference / max(size, float(np.finfo(np.float64).tiny))
    return float(ratio) if np.isfinite(size) and np.isfinite(ratio) else float("inf")


def _distance(a: A, b: A | int) -> float:
    if isinstance(a, Tensor):
        return torch.linalg.vector_norm(a.double() - b).item()  # a double and anything else make a double
    return float(np.linalg.norm(np.subtract(a, b, dtype=np.float64)))


def median_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Error of the median position of (B, C, H, W) embeddings: Euclidean over channels, relative to the mean square.

    Infinite when any entry is not finite.
    """
    by_position = np.linalg.norm(np.subtract(actual, expected, dtype=np.float64), axis=1)
    size = np.sqrt(np.mean(np.sum(np.square(expected, dtype=np.float64), axis=1)))
    ratio = np.median(by_position) / max(size, np.finfo(np.float64).tiny)
    return float(ratio) if np.isfinite(by_position).all() and np.isfinite(ratio) else float("inf")


def cosine(actual: np.ndarray, expected: np.ndarray) -> float:
    """Cosine similarity over all entries, in float64; -1 when not finite."""
    a, b = (np.asarray(x, np.float64).ravel() for x in (actual, expected))
    value = a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), np.finfo(np.float64).tiny)
    return float(value) if np.isfinite(value) else -1.0


def max_abs(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference; infinity when not finite."""
    value = np.abs(np.subtract(actual, expected, dtype=np.float64)).max()
    return float(value) if np.isfinite(value) else float("inf")


def mask_iou(actual: np.ndarray, expected: np.ndarray) -> float:
    """Intersection over union of two boolean masks; 1 when both are empty."""
    union = np.logical_or(actual, expected).sum()
    return float(np.logical_and(actual, expected).sum() / union) if union else 1.0


def boundary_iou(actual: np.ndarray, expected: np.ndarray) -> float:
    """IoU of the two masks' inner boundary bands."""
    return mask_iou(boundary(actual), boundary(expected))


def boundary(mask: np.ndarray) -> np.ndarray:
    """The inner boundary band of a boolean mask (H, W), `BOUNDARY_RATIO` of the image's diagonal wide.

    Eroding by 3x3 as often as the band is wide leaves the pixels whose square of that radius lies in the mask: all of
    its rows, then all of its columns, inside the mask's own bounding box (outside the image nothing is mask).
    """

    width = max(1, round(BOUNDARY_RATIO * float(np.hypot(*mask.shape))))
    band = np.zeros_like(mask)
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows):
        box = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
        inner = _all_within(_all_within(mask[box], width).T, width).T
        band[box] = mask[box] & ~inner
    return band


def _all_within(mask: np.ndarray, reach: int) -> np.ndarray:
    """Whether (H, W) is true from ``reach`` rows above to as many below; rows outside are false."""
    window = 2 * reach + 1
    counts = np.pad(mask, ((reach + 1, reach), (0, 0))).cumsum(0, np.int32)
    return counts[window:] - counts[:-window] == window
