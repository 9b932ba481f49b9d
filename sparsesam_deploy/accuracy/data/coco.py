"""COCO instance JSON of any size: streamed, and kept as run lengths."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import InvalidInput
from .coco_json import Annotations, Images, read_images
from .dataset import BadImage, LabelledImage
from .files import Progress, check_memory, fingerprint, read_pixels
from .rle import Unusable, decode, encode

_READING_IMAGES = 0.2  # of the time: annotations are read in a second pass, where polygons become run lengths
_GOOD = 0


class CocoDataset:
    """Images with annotations of a COCO instance file, in the file's order; objects are named by annotation id.

    Crowd annotations are left out, as everybody does who evaluates on COCO; so are annotations of images that the file
    does not list, and images that no annotation is left for. `left_out` counts them. Sizes are those of the upright
    image; where EXIF turns an image by half a turn or mirrors it, sizes cannot tell which way it was annotated, and
    upright is assumed.

    Args:
        instances: the JSON file; it is read twice, because images and annotations may come in any order.
        images: the folder that ``file_name`` is relative to.
        progress: is told the share of the reading that is done.

    Raises:
        InvalidInput: the file is no COCO instance JSON, its images are ambiguous or lie outside ``images``, or none of
            them is there.
    """

    has_truth = True

    def __init__(self, instances: Path, images: Path, progress: Progress | None = None) -> None:
        report = progress or (lambda share: None)
        listed = read_images(instances, lambda share: report(_READING_IMAGES * share))
        self._objects = _Objects(listed)
        annotations = Annotations(instances, lambda share: report(_READING_IMAGES + (1 - _READING_IMAGES) * share))
        self._objects.read(annotations)
        used = self._objects.index()
        if not len(used):
            raise InvalidInput(f"{instances} has no annotation of an object on an image; name COCO instance JSON.")
        self._file, self._folder = instances, images
        self.description = f"COCO instances {instances}"
        self.names: Sequence[str] = [listed.names[position] for position in used]
        self._sizes = [(listed.heights[position], listed.widths[position]) for position in used]
        paths = [images / name for name in self.names]
        if not any(map(os.path.isfile, paths)):  # `Path.is_file` raises on names that are too long
            raise InvalidInput(f"none of the {len(paths)} images of {instances} is in {images}; name their folder.")
        self.fingerprint = fingerprint([annotations.sha256], self.names, paths)
        counts = {
            "crowd annotations": self._objects.crowds,
            "annotations of images that are not listed": self._objects.orphans,
            "images without objects": len(listed.names) - len(used),
        }
        self.left_out = {reason: count for reason, count in counts.items() if count}

    def load(self, index: int) -> LabelledImage:
        """Decode image ``index`` and its masks; raises `BadImage` as `Dataset.load` does."""
        name, (height, width) = self.names[index], self._sizes[index]
        path = self._folder / name
        rows = self._objects.rows(index)
        problems = tuple(
            f"annotation {self._objects.ids[row]} of image {path} in {self._file} "
            f"{self._objects.reasons[self._objects.states[row]]}; correct or remove it."
            for row in rows
            if self._objects.states[row] != _GOOD
        )
        good = [row for row in rows if self._objects.states[row] == _GOOD]
        if not good:
            raise BadImage(problems[0])
        pixels = read_pixels(path)
        if pixels.shape[:2] != (height, width):
            raise BadImage(self._other_size(path, (width, height), pixels.shape[1::-1]))
        check_memory(len(good), height, width, f"image {path} in {self._file}")
        masks = np.empty((len(good), height, width), bool)
        for mask, row in zip(masks, good, strict=True):
            mask[:] = decode(self._objects.counts(row), height, width)
        return LabelledImage(pixels, masks, tuple(str(self._objects.ids[row]) for row in good), problems)

    def _other_size(self, path: Path, annotated: tuple[int, int], upright: tuple[int, int]) -> str:
        annotated_size, upright_size = (f"{width}x{height}" for width, height in (annotated, upright))
        with Image.open(path) as image:
            stored = image.size
        if stored == annotated:
            return (
                f"image {path} is {upright_size} pixels when its EXIF orientation turns it upright, but {self._file} "
                f"annotates the pixels as stored, {annotated_size}; remove the orientation tag from the image."
            )
        return (
            f"image {path} is {upright_size} pixels, but {annotated_size} in {self._file}; "
            f"use the images that were annotated."
        )


class _Objects:
    """All annotations as rows of flat arrays: two dozen bytes each, beside the run lengths in one buffer.

    ``ids``, ``states`` (0: has a mask; else an index into ``reasons``) are by row, in the file's order.
    """

    def __init__(self, images: Images) -> None:
        self._listed = images
        self._images, self.ids, self.states, self._ends = array("i"), array("q"), array("i"), array("q")
        self._buffer = bytearray()
        self.reasons = ["has a mask"]
        self._known_reasons: dict[str, int] = {}
        self.crowds = self.orphans = 0

    def read(self, annotations: Annotations) -> None:
        listed = self._listed
        for identifier, image, is_crowd, segmentation in annotations:
            if is_crowd:
                self.crowds += 1
                continue
            if (position := listed.positions.get(image)) is None:
                self.orphans += 1
                continue
            state = _GOOD
            try:
                self._buffer += encode(segmentation, listed.heights[position], listed.widths[position])
            except Unusable as reason:
                state = self._state(str(reason))
            self._images.append(position)
            self.ids.append(identifier)
            self.states.append(state)
            self._ends.append(len(self._buffer))

    def index(self) -> np.ndarray:
        """Refuse repeated ids, sort rows by image, and give the positions of images that have any, ascending."""
        ids = np.array(self.ids)
        by_id = ids.argsort(kind="stable")
        for row in by_id[1:][ids[by_id[1:]] == ids[by_id[:-1]]]:
            self.states[row] = self._state("has the id of an earlier annotation")
        images = np.array(self._images)
        self._order = images.argsort(kind="stable")
        used, starts = np.unique(images[self._order], return_index=True)
        self._starts = np.append(starts, len(images))
        return used

    def rows(self, index: int) -> np.ndarray:
        """Rows of the image at ``index`` of those that `index` gave."""
        return self._order[self._starts[index] : self._starts[index + 1]]

    def counts(self, row: int) -> bytes:
        return bytes(self._buffer[self._ends[row - 1] if row else 0 : self._ends[row]])

    def _state(self, reason: str) -> int:
        """The index of ``reason``, which is kept once: a million annotations without polygons share theirs."""
        if reason not in self._known_reasons:
            self._known_reasons[reason] = len(self.reasons)
            self.reasons.append(reason)
        return self._known_reasons[reason]
