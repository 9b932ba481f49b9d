"""The images that a check runs on, and the prompts for each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from segment_anything.utils.transforms import ResizeLongestSide

from ..model.config import IMAGE_SIZE
from ..model.decoder import Prompts
from ..model.image import Preprocessed, preprocess, read_image
from ..model.image_files import image_files

SHIPPED = Path(__file__).parents[1] / "assets" / "images"
POINTS_PER_SIDE = 4


@dataclass(frozen=True, eq=False)
class Sample:
    """One image (H, W, 3) uint8 with prompts in its own pixels: boxes (N, 4) XYXY, or points (N, 2) XY."""

    name: str
    pixels: np.ndarray
    boxes: np.ndarray | None
    points: np.ndarray | None

    def preprocessed(self) -> Preprocessed:
        return preprocess(self.pixels)

    def prompts(self) -> Prompts:
        """The prompts in the coordinates of the encoder's input."""
        resize, size = ResizeLongestSide(IMAGE_SIZE), self.pixels.shape[:2]
        if self.boxes is not None:
            return Prompts.from_boxes(resize.apply_boxes(self.boxes, size))
        assert self.points is not None
        return Prompts.from_points(resize.apply_coords(self.points, size))


def shipped_samples() -> list[Sample]:
    """The package's photos: 24 coins and a face, by boxes."""
    prompts = json.loads((SHIPPED / "prompts.json").read_text())
    return [
        Sample(name, read_image(SHIPPED / name), np.array(entry["boxes"], np.float64), None)
        for name, entry in prompts.items()
    ]


def user_samples(paths: Sequence[Path]) -> list[Sample]:
    """The user's images, each asked by a 4x4 grid of points.

    Folders stand for the images in them and in their sub-folders, named by their paths from there.

    Raises:
        InvalidInput: a folder without images.
        ImageError: a file that is no image.
    """
    named: list[tuple[str, Path]] = []
    for path in paths:
        if path.is_dir():
            named += [(file.as_posix(), path / file) for file in image_files(path)]
        else:
            named.append((path.name, path))
    return [Sample(name, pixels := read_image(file), None, _point_grid(pixels)) for name, file in named]


def _point_grid(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    steps = (np.arange(POINTS_PER_SIDE) + 0.5) / POINTS_PER_SIDE
    return np.stack(np.meshgrid(steps * width, steps * height), -1).reshape(-1, 2)
