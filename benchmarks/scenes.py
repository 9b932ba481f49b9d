"""The held-out scenes at half their size."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np

from sparsesam_deploy.accuracy.data.dataset import Dataset, LabelledImage
from sparsesam_deploy.model.config import IMAGE_SIZE

QUARTER = IMAGE_SIZE // 2


class HalfSize:
    """The images of ``dataset``, four to a frame of 1024x1024, each in its own pixels.

    SAM scales a scene of 512x512 up, so that its objects have twice the size and half the detail of objects in a scene
    of 1024x1024. In a frame with three others a scene keeps its detail, at half the size. Scenes that leave room in
    their quarter are black there.

    Raises:
        ValueError: the images do not come in fours.
    """

    has_truth = True

    def __init__(self, dataset: Dataset) -> None:
        if len(dataset.names) % 4:
            raise ValueError(f"{len(dataset.names)} images do not fill frames of four.")
        self._dataset = dataset
        self._frames = np.arange(len(dataset.names)).reshape(-1, 4).tolist()
        self.names: Sequence[str] = ["+".join(dataset.names[i] for i in frame) for frame in self._frames]
        self.description = f"{dataset.description}, four to a frame"
        self.fingerprint = sha256(f"{dataset.fingerprint}, four to a frame".encode()).hexdigest()
        self.left_out = dataset.left_out

    def load(self, index: int) -> LabelledImage:
        """Four images: upper left, upper right, lower left, lower right."""
        pixels = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        masks, objects = [], []
        for place, scene in enumerate(self._frames[index]):
            image = self._dataset.load(scene)
            top, left = QUARTER * (place // 2), QUARTER * (place % 2)
            height, width = image.pixels.shape[:2]
            region = slice(top, top + height), slice(left, left + width)
            pixels[region] = image.pixels
            for mask, name in zip(image.masks, image.objects, strict=True):
                masks.append(np.zeros((IMAGE_SIZE, IMAGE_SIZE), bool))
                masks[-1][region] = mask
                objects.append(f"{self._dataset.names[scene]}:{name}")
        return LabelledImage(pixels, np.stack(masks), tuple(objects))
