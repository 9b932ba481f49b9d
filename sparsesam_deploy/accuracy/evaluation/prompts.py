"""What is asked about an object: prompts made from its mask, or read from a file."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from segment_anything.utils.transforms import ResizeLongestSide

from ...errors import InvalidInput
from ...model.config import IMAGE_SIZE
from ...model.decoder import Prompts
from ...optional import importing
from ..data.dataset import BadImage

JITTER = 0.1
"""A jittered box's sides move by up to this share of its width or height."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One prompt for each of N objects, in pixels of the image: boxes (N, 4) XYXY or points (N, K, 2) XY."""

    boxes: np.ndarray | None = None
    points: np.ndarray | None = None

    def prompts(self, size: tuple[int, int], chosen: slice) -> Prompts:
        """Those of the ``chosen`` objects for the decoder; ``size`` is the image's (height, width)."""
        resize = ResizeLongestSide(IMAGE_SIZE)
        if self.boxes is not None:
            return Prompts.from_boxes(resize.apply_boxes(self.boxes[chosen], size))
        assert self.points is not None
        return Prompts.from_points(resize.apply_coords(self.points[chosen], size))


class PromptKind(Protocol):
    """A way of asking. ``name`` stands in options, files and reports, ``repr`` says everything that it depends on."""

    @property
    def name(self) -> str: ...

    def ask(self, image: str, objects: tuple[str, ...], masks: np.ndarray) -> Asked:
        """Prompts for the objects of ``image`` by their masks (N, height, width), none of them empty."""
        ...


@dataclass(frozen=True)
class Box:
    """The tight box of the mask; ``jitter`` moves each side by up to that share of the box, inside the image."""

    jitter: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        return "jittered-box" if self.jitter else "box"

    def ask(self, image: str, objects: tuple[str, ...], masks: np.ndarray) -> Asked:
        boxes = np.array([tight_box(mask) for mask in masks], np.float64)
        if self.jitter:
            sides = np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)
            moves = np.stack([_generator(self.seed, self.name, image, name).uniform(-1, 1, 4) for name in objects])
            limits = np.tile(np.array(masks.shape[:0:-1]) - 1, 2)
            boxes = np.clip(boxes + self.jitter * sides * moves, 0, limits)
        return Asked(boxes=boxes)


@dataclass(frozen=True)
class Center:
    """The pixel deepest inside the mask: a centre that lies on rings and crescents too."""

    name: str = "center"

    def ask(self, image: str, objects: tuple[str, ...], masks: np.ndarray) -> Asked:
        return Asked(points=np.array([[deepest_pixel(mask)] for mask in masks], np.float64))


@dataclass(frozen=True)
class RandomPoints:
    """``count`` pixels of the mask, uniformly drawn; the same ones in every run with the same ``seed``."""

    count: int
    seed: int = 0

    @property
    def name(self) -> str:
        return f"random-{self.count}"

    def ask(self, image: str, objects: tuple[str, ...], masks: np.ndarray) -> Asked:
        points = []
        for name, mask in zip(objects, masks, strict=True):
            pixels = np.flatnonzero(mask)
            generator = _generator(self.seed, self.name, image, name)
            drawn = generator.choice(pixels, self.count, replace=len(pixels) < self.count)
            points.append(np.stack(np.divmod(drawn, mask.shape[1])[::-1], 1))
        return Asked(points=np.array(points, np.float64))


class FromFile:
    """Prompts of a JSON file: ``{image: {object: {"box": [x0, y0, x1, y1]}}}`` or ``{"points": [[x, y], ...]}``.

    Raises:
        InvalidInput: the file is unreadable or not of that form.
    """

    name = "file"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_bytes()
            self.entries, self.digest = json.loads(text), hashlib.sha256(text).hexdigest()
        except (OSError, ValueError) as error:
            raise InvalidInput(f"prompt file {path} cannot be read ({error}); give JSON, see the README.") from error
        if not isinstance(self.entries, dict):
            raise InvalidInput(f"prompt file {path} is not an object of images; see the README for its form.")

    def check_images(self, names: Sequence[str]) -> None:
        """Refuse the file before any work is done if it has nothing about one of ``names``."""
        for name in names:
            if name not in self.entries:
                raise InvalidInput(f"prompt file {self.path} has no image {name}; add it or leave the image out.")

    def __repr__(self) -> str:
        return f"FromFile({self.digest})"

    def ask(self, image: str, objects: tuple[str, ...], masks: np.ndarray) -> Asked:
        """As `PromptKind.ask`; all objects of one image are asked alike, by boxes or by equally many points.

        Raises:
            BadImage: an object is missing, or its prompt is malformed or outside the image.
        """
        shapes = {"box": (4,), "points": (-1, 2)}
        found: dict[str, list[np.ndarray]] = {"box": [], "points": []}
        for name in objects:
            where = f"prompt file {self.path}: image {image}, object {name}"
            entry = self.entries.get(image)
            entry = entry.get(name) if isinstance(entry, dict) else None
            if not isinstance(entry, dict) or len(entry) != 1 or not (entry.keys() & shapes.keys()):
                raise BadImage(f'{where} has no "box" or "points"; add one of them or leave the image out.')
            ((kind, values),) = entry.items()
            try:
                values = np.array(values, np.float64).reshape(shapes[kind])
            except (TypeError, ValueError):
                values = np.empty(0)
            if values.size == 0 or not np.isfinite(values).all():
                raise BadImage(f"{where}: {kind} is not numbers of the expected form; see the README.")
            corners, (height, width) = values.reshape(-1, 2), masks.shape[1:]
            if (corners < 0).any() or (corners > (width, height)).any():
                raise BadImage(f"{where}: {kind} lies outside the image of {width}x{height} pixels; correct it.")
            if kind == "box" and (corners[0] > corners[1]).any():
                raise BadImage(f"{where}: box ends before it begins; give [x0, y0, x1, y1].")
            found[kind].append(values)
        boxes, points = found["box"], found["points"]
        if (boxes and points) or len({len(group) for group in points}) > 1:
            raise BadImage(
                f"prompt file {self.path}: image {image} mixes boxes and points, or different numbers of points; ask "
                "all objects of one image alike."
            )
        return Asked(boxes=np.array(boxes)) if boxes else Asked(points=np.array(points))


def parse_prompt(text: str, seed: int = 0) -> PromptKind:
    """``box``, ``jittered-box``, ``center``, ``random-K`` or ``file:PATH``.

    Raises:
        InvalidInput: none of these.
    """
    if text == "box":
        return Box()
    if text == "jittered-box":
        return Box(JITTER, seed)
    if text == "center":
        return Center()
    if (match := re.fullmatch(r"random-([1-9]\d?)", text)) is not None:
        return RandomPoints(int(match[1]), seed)
    if text.startswith("file:"):
        return FromFile(Path(text.removeprefix("file:")))
    raise InvalidInput(f"prompt {text!r} is unknown; choose box, jittered-box, center, random-1 to 99 or file:PATH.")


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """XYXY pixel indices of a mask that is not empty, both ends inclusive."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(cols[0]), int(rows[0]), int(cols[-1]), int(rows[-1])


def deepest_pixel(mask: np.ndarray) -> tuple[int, int]:
    """XY of the pixel farthest from everything that is not mask; outside the image nothing is."""
    with importing("scipy", "a centre prompt"):
        from scipy.ndimage import distance_transform_edt
    x0, y0, x1, y1 = tight_box(mask)
    depth = distance_transform_edt(np.pad(mask[y0 : y1 + 1, x0 : x1 + 1], 1))[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return int(x) + x0, int(y) + y0


def _generator(seed: int, *words: str) -> np.random.Generator:
    """Random numbers that depend on what is drawn for, not on what was drawn before."""
    return np.random.default_rng([seed, *(zlib.crc32(word.encode()) for word in words)])
