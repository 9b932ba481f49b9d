"""Small COCO instance files, and run lengths by their definition."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 24, 32
SIZE = [HEIGHT, WIDTH]

TRIANGLE = [2.0, 3.0, 20.5, 4.25, 9.0, 18.75]
SQUARE = [22.0, 10.0, 30.0, 10.0, 30.0, 20.0, 22.0, 20.0]
ORDERS = (("images", "annotations"), ("annotations", "images"))


def random_mask(seed: int, share: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).random((HEIGHT, WIDTH)) < share


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's counts by their definition: column by column, background first."""
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return np.diff([0, *edges, flat.size]).tolist()


def compressed(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def image(identifier: int, name: str, **more) -> dict:
    return {"id": identifier, "file_name": name, "height": HEIGHT, "width": WIDTH, **more}


def annotation(identifier: int, image_id: int, segmentation: object = (SQUARE,), **more) -> dict:
    return {
        "id": identifier,
        "image_id": image_id,
        "category_id": 1,
        "segmentation": segmentation,
        "iscrowd": 0,
        **more,
    }


def write(folder: Path, images: list, annotations: list, order: tuple[str, ...] = ORDERS[0]) -> Path:
    """An instance file, and the images of it that can be."""
    for entry in images:
        if isinstance(entry, dict) and re.fullmatch(r"[\w/]+\.png", str(entry.get("file_name"))):
            (folder / entry["file_name"]).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT), (10, 20, 30)).save(folder / entry["file_name"])
    lists = {"images": images, "annotations": annotations}
    document = {"licenses": [{"id": 1}], **{key: lists[key] for key in order}, "categories": [{"id": 1}]}
    (folder / "instances.json").write_text(json.dumps(document))
    return folder / "instances.json"
