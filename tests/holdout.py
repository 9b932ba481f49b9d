"""The held-out images as their label maps have them: the tests' own reading of the data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

FOLDER = Path(__file__).parent / "data" / "holdout"


@dataclass(frozen=True)
class Scene:
    """One image (H, W, 3) uint8 and the true ``masks`` (objects, H, W) of what is on it; ``source`` is its file."""

    source: str
    image: np.ndarray
    masks: np.ndarray

    @cached_property
    def boxes(self) -> np.ndarray:
        """(objects, 4) tight XYXY pixel indices, both ends inclusive."""
        return np.array([[x.min(), y.min(), x.max(), y.max()] for y, x in map(np.nonzero, self.masks)])


def scenes() -> list[Scene]:
    """The twelve held-out images."""
    found = []
    for entry in json.loads((FOLDER / "holdout.json").read_text())["images"]:
        image, labels = (np.array(Image.open(FOLDER / entry[name])) for name in ("image", "labels"))
        masks = np.stack([np.isin(labels, item["labels"]) for item in entry["objects"]])
        found.append(Scene(entry["image"], image[..., :3], masks))
    return found


def preprocess(sam: Sam, image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, 1024, 1024) by Segment Anything's own steps."""
    resized = ResizeLongestSide(sam.image_encoder.img_size).apply_image(image)
    return sam.preprocess(torch.as_tensor(resized).permute(2, 0, 1)[None].float())
