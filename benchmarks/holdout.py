"""The held-out images, their eight mirrorings, and how well a SAM with a given encoder segments them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "tests" / "data" / "holdout"

PROMPTS = ("box", "point")

GREY = "#7c7468"
"""The mean colour, which is what SAM itself pads with."""

Encode = Callable[[Tensor], Tensor]
"""(B, 3, 1024, 1024), normalised and padded -> (B, 256, 64, 64)."""

SYMMETRIES: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("as it is", lambda a: a),
    ("left-right", lambda a: a[:, ::-1]),
    ("up-down", lambda a: a[::-1]),
    ("half turn", lambda a: a[::-1, ::-1]),
    ("transposed", lambda a: a.swapaxes(0, 1)),
    ("turned left", lambda a: a.swapaxes(0, 1)[::-1]),
    ("turned right", lambda a: a.swapaxes(0, 1)[:, ::-1]),
    ("anti-transposed", lambda a: a.swapaxes(0, 1)[::-1, ::-1]),
)


@dataclass(frozen=True)
class Scene:
    """One image (H, W, 3) uint8 and the true ``masks`` (objects, H, W) of what is on it; ``source`` is its file."""

    source: str
    symmetry: str
    scale: float
    image: np.ndarray
    masks: np.ndarray

    @cached_property
    def boxes(self) -> np.ndarray:
        """(objects, 4) tight XYXY pixel indices, both ends inclusive."""
        return np.array([[x.min(), y.min(), x.max(), y.max()] for y, x in map(np.nonzero, self.masks)])

    @cached_property
    def points(self) -> np.ndarray:
        """(objects, 2) XY of the pixel deepest inside each object: a centre that lies on rings and crescents too."""
        depths = [distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] for mask in self.masks]
        return np.array([np.unravel_index(depth.argmax(), depth.shape)[::-1] for depth in depths])


def scenes(symmetries: int = 1, scales: tuple[float, ...] = (1.0,)) -> list[Scene]:
    """The held-out images in the first ``symmetries`` of the eight mirrorings, at each of ``scales`` (at most 1)."""
    found = []
    for entry in json.loads((FOLDER / "holdout.json").read_text())["images"]:
        picture, label_map = Image.open(FOLDER / entry["image"]).convert("RGB"), Image.open(FOLDER / entry["labels"])
        for scale in scales:
            image, labels = (np.array(shrink(*pair)) for pair in ((picture, scale, GREY), (label_map, scale, 0)))
            masks = np.stack([np.isin(labels, item["labels"]) for item in entry["objects"]])
            for name, mirrored in SYMMETRIES[:symmetries]:
                turned = np.stack([mirrored(mask) for mask in masks])
                found.append(Scene(entry["image"], name, scale, mirrored(image).copy(), turned))
    return found


def shrink(picture: Image.Image, scale: float, border: str | int) -> Image.Image:
    """The picture at ``scale`` in the middle of a canvas of its size and of colour ``border``."""
    size = [round(scale * length) for length in picture.size]
    canvas = Image.new(picture.mode, picture.size, border)
    place = [(length - short) // 2 for length, short in zip(picture.size, size, strict=True)]
    canvas.paste(picture.resize(size, Image.Resampling.BILINEAR if picture.mode == "RGB" else 0), place)
    return canvas


def preprocess(sam: Sam, image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, 1024, 1024) by Segment Anything's own steps."""
    resized = ResizeLongestSide(sam.image_encoder.img_size).apply_image(image)
    return sam.preprocess(torch.as_tensor(resized).permute(2, 0, 1)[None].float())


@torch.no_grad()
def segment(sam: Sam, embedding: Tensor, scene: Scene, prompt: str) -> np.ndarray:
    """(objects, H, W) bool: one mask for each object, asked for by its ``"box"`` or centre ``"point"``."""
    height, width = scene.image.shape[:2]
    transform = ResizeLongestSide(sam.image_encoder.img_size)
    if prompt == "box":
        points, boxes = None, torch.as_tensor(transform.apply_boxes(scene.boxes, (height, width))).float()
    else:
        coordinates = torch.as_tensor(transform.apply_coords(scene.points, (height, width))).float()[:, None]
        points, boxes = (coordinates, torch.ones(len(coordinates), 1)), None
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
    low_resolution, _ = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    resized = transform.get_preprocess_shape(height, width, sam.image_encoder.img_size)
    masks = sam.postprocess_masks(low_resolution, resized, (height, width)) > sam.mask_threshold
    return masks[:, 0].numpy()


def intersection_over_union(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(objects,) from two (objects, H, W) of bool."""
    return (found & true).sum((1, 2)) / (found | true).sum((1, 2))


def object_ious(sam: Sam, embedding: Tensor, scene: Scene) -> dict[str, np.ndarray]:
    """IoU of every object of ``scene``, by kind of prompt."""
    return {prompt: intersection_over_union(segment(sam, embedding, scene, prompt), scene.masks) for prompt in PROMPTS}
