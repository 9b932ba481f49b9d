"""Objects of images without ground truth: what the dense model finds by itself."""

from __future__ import annotations

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator

from ...model.checkpoint import LoadedSam
from ...model.predictor import SparseSamPredictor
from .variants import Outputs

POINTS_PER_SIDE = 12
POINTS_AT_ONCE = 36
MASK_BYTES = 1 << 29
LEAST_IOU, LEAST_STABILITY = 0.5, 0.6
MAX_OBJECTS = 24
MIN_AREA = 100
"""Pixels; what is smaller says more about the decoder's thresholds than about the encoder."""


class DenseObjects:
    """Finds objects with segment_anything's own ``SamAutomaticMaskGenerator`` on an embedding that is already there.

    ``loaded.sam`` is on ``device``. At most 24 objects an image, those of the highest predicted IoU. The thresholds are
    lower than the authors': fine-tuned and small models think less of their masks, and of a large one only the best are
    taken anyway.
    """

    _outputs: Outputs
    """Of the image that is looked at."""

    def __init__(self, loaded: LoadedSam, device: torch.device) -> None:
        self._device = device
        self._generator = SamAutomaticMaskGenerator(
            loaded.sam, POINTS_PER_SIDE, pred_iou_thresh=LEAST_IOU, stability_score_thresh=LEAST_STABILITY
        )
        self._generator.predictor = SparseSamPredictor(loaded.sam, self._known)

    def _known(self, _: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        return self._outputs.map(lambda value: torch.from_numpy(value).to(self._device)).returned

    def __call__(self, pixels: np.ndarray, dense: Outputs) -> np.ndarray:
        """Masks (N, height, width) bool of ``pixels`` by the ``dense`` encoder's outputs; N may be 0."""
        self._outputs = dense
        height, width = pixels.shape[:2]
        # Three float32 masks of a point, at the image's size.
        self._generator.points_per_batch = max(1, min(POINTS_AT_ONCE, MASK_BYTES // (12 * height * width)))
        found = [entry for entry in self._generator.generate(pixels) if entry["area"] >= MIN_AREA]
        found.sort(key=lambda entry: -entry["predicted_iou"])
        masks = [entry["segmentation"] for entry in found[:MAX_OBJECTS]]
        return np.stack(masks) if masks else np.zeros((0, *pixels.shape[:2]), bool)
