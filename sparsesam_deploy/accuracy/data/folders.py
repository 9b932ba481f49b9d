"""Folders of images: with label maps, with one mask each, or with no labels."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ...errors import ImageError, InvalidInput
from ...model.image import read_image
from ...model.image_files import files_in, image_files
from .dataset import BadImage, LabelledImage
from .files import Progress, by_stem, check_memory, fingerprint, hashes, read_pixels

LABELS_ENDING = "_labels"
LABELS_SUFFIX = ".png"
_MAX_LABEL = 65535
_MASK_THRESHOLD = 127


class _Pairs(ABC):
    """Images, and for each the label file of the same relative path without the suffix.

    Sub-classes find the label files and read masks from them; the words for messages are theirs too.
    """

    has_truth = True
    kind: str

    def __init__(
        self,
        images: Path,
        labels: Path,
        image_of: dict[str, Path],
        label_of: dict[str, Path],
        settings: str,
        progress: Progress | None,
    ) -> None:
        self._folder, self._labels = images, labels
        self._pairs = [(images / file, label_of.get(stem)) for stem, file in image_of.items()]
        used = [labels / label for _, label in self._pairs if label is not None]
        if not used:
            raise InvalidInput(
                f"none of the {len(self._pairs)} images in {images} has a {self.kind} in {labels}; "
                f"name the folder of {self.kind}s, whose names are those of the images."
            )
        self.description = f"images in {images}, {self.kind}s in {labels}"
        self.names: Sequence[str] = [file.as_posix() for file in image_of.values()]
        self.fingerprint = fingerprint(
            [self.kind, settings, *hashes(used, progress)], self.names, [image for image, _ in self._pairs]
        )
        alone = len(label_of) - len(used)
        self.left_out = {f"{self.kind}s without an image": alone} if alone else {}

    def load(self, index: int) -> LabelledImage:
        """Decode image ``index`` and its labels; raises `BadImage` as `Dataset.load` does."""
        image, label = self._pairs[index]
        if label is None:
            raise BadImage(f"image {image} has no {self.kind} in {self._labels}; add one of the same stem.")
        pixels, whose = read_pixels(image), f"{self.kind} {self._labels / label} of image {image}"
        try:
            values = self._read(self._labels / label)
        except ImageError as error:
            raise BadImage(f"{whose} cannot be read: {error}") from error
        if values.shape != pixels.shape[:2]:
            sizes = [f"{array.shape[1]}x{array.shape[0]}" for array in (values, pixels)]
            raise BadImage(
                f"{whose} is {sizes[0]} pixels, the image upright {sizes[1]}; give it the image's size and orientation."
            )
        return LabelledImage(pixels, *self._masks(values, label, whose))

    @abstractmethod
    def _read(self, file: Path) -> np.ndarray:
        """(height, width) values; `ImageError` where the file is no image of the kind."""

    @abstractmethod
    def _masks(self, values: np.ndarray, label: Path, whose: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """Masks (N, height, width) bool and what they are called; `BadImage` where there is none."""


class LabelMaps(_Pairs):
    """Images and label maps: PNG files of the image's stem, or of its stem and ``_labels``, with the same sub-folders.

    Palette, 8-bit or 16-bit grey; 0 is background, every other value is one object, named by its value. That holds for
    255 too, with which Pascal VOC marks borders that belong to no object: name it in ``ignore`` if yours do.

    In one folder with the images, label maps are the files that end in ``_labels.png``.

    Args:
        images, labels: the folders.
        ignore: values that are no objects.
        progress: is told the share of the label maps that are hashed.

    Raises:
        InvalidInput: there is no image, no label map of any, or two for one stem.
    """

    kind = "label map"

    def __init__(
        self, images: Path, labels: Path, ignore: Collection[int] = (), progress: Progress | None = None
    ) -> None:
        self._ignore = frozenset(ignore)
        found, maps = image_files(images, besides=labels), files_in(labels, {LABELS_SUFFIX}, besides=images)
        if images.resolve() == labels.resolve():
            maps = [file for file in maps if file.stem.endswith(LABELS_ENDING)]
            found = [file for file in found if file not in set(maps)]
        image_of, map_of = by_stem(images, found), by_stem(labels, maps)
        label_of: dict[str, Path] = {}
        for stem, file in map_of.items():
            # "a_labels.png" belongs to "a.jpg", unless an image is itself called "a_labels.jpg".
            owner = stem if stem in image_of else stem.removesuffix(LABELS_ENDING)
            if (other := label_of.setdefault(owner, file)) is not file:
                raise InvalidInput(f"{labels / other} and {labels / file} are of one image; keep one of them.")
        super().__init__(images, labels, image_of, label_of, f"ignore {sorted(self._ignore)}", progress)

    def _read(self, file: Path) -> np.ndarray:
        return _read_indices(file)

    def _masks(self, values: np.ndarray, label: Path, whose: str) -> tuple[np.ndarray, tuple[str, ...]]:
        present = [value for value in np.flatnonzero(np.bincount(values.ravel())) if value not in {0, *self._ignore}]
        if not present:
            raise BadImage(f"{whose} is all background; label an object or remove both files.")
        height, width = values.shape
        check_memory(len(present), height, width, whose)
        masks = np.empty((len(present), height, width), bool)
        for mask, value in zip(masks, present, strict=True):
            np.equal(values, value, out=mask)
        return masks, tuple(map(str, present))


class MaskPairs(_Pairs):
    """Images and one mask for each, of the same stem and in the same sub-folders: DIS5K, COIFT, HRSOD, ThinObject.

    The one object of an image is where its mask is brighter than 127 of 255, and is named after the mask's file.

    Args:
        images, masks: the folders, ``im`` and ``gt`` for instance.
        progress: is told the share of the masks that are hashed.

    Raises:
        InvalidInput: there is no image, no mask of any, two for one stem, or the folders are the same.
    """

    kind = "mask"

    def __init__(self, images: Path, masks: Path, progress: Progress | None = None) -> None:
        if images.resolve() == masks.resolve():
            raise InvalidInput(f"images and masks are the same folder, {images}; put them into one folder each.")
        image_of = by_stem(images, image_files(images, besides=masks))
        mask_of = by_stem(masks, files_in(masks, besides=images))
        super().__init__(images, masks, image_of, mask_of, "", progress)

    def _read(self, file: Path) -> np.ndarray:
        return np.array(Image.fromarray(read_image(file)).convert("L"))

    def _masks(self, values: np.ndarray, label: Path, whose: str) -> tuple[np.ndarray, tuple[str, ...]]:
        mask = values > _MASK_THRESHOLD
        if not mask.any():
            raise BadImage(
                f"{whose} is empty: no pixel is brighter than {_MASK_THRESHOLD} of 255; "
                f"draw the object in white or remove both files."
            )
        return mask[None], (label.as_posix(),)


class Unlabelled:
    """Images alone: a folder with its sub-folders, or one file.

    Raises:
        InvalidInput: it is neither, or a folder without images.
    """

    has_truth = False

    def __init__(self, images: Path) -> None:
        if images.is_file():
            self._paths, self.description = [images], f"image {images}"
            self.names: Sequence[str] = [images.name]
        else:
            files = image_files(images)
            self._paths, self.description = [images / file for file in files], f"images in {images}"
            self.names = [file.as_posix() for file in files]
        self.fingerprint = fingerprint(["unlabelled"], self.names, self._paths)
        self.left_out: dict[str, int] = {}

    def load(self, index: int) -> LabelledImage:
        """Decode image ``index``; raises `BadImage` as `Dataset.load` does."""
        return LabelledImage(read_pixels(self._paths[index]), None)


def _read_indices(file: Path) -> np.ndarray:
    """(height, width) int32 values of a palette or grey image, not looked up, upright; `ImageError` for all others."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in `read_image`
            with Image.open(file) as image:
                mode, values = image.mode, np.array(ImageOps.exif_transpose(image)).astype(np.int32)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on a damaged file
        raise ImageError(f"{file.name} cannot be decoded ({error}); save it again as PNG.") from error
    if values.ndim != 2:
        raise ImageError(f"{file.name} has pixels of mode {mode}; save it as palette, 8-bit or 16-bit grey.")
    if values.min() < 0 or values.max() > _MAX_LABEL:
        raise ImageError(f"{file.name} has values beyond 16 bits; save it with 8 or 16 bits.")
    return values
