"""What the data sets share: pairing files, reading them, and telling whether they are the same as last time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from ...artifacts import sha256_file
from ...errors import ImageError, InvalidInput
from ...model.image import read_image
from .dataset import BadImage

MAX_MASK_BYTES = 4 * 1024**3
"""What the masks of one image may need: far more than any real one, less than a photo taken for a label map."""

Progress = Callable[[float], None]
"""Is told the share of the work that is done, 0 to 1."""


def by_stem(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    """Relative path without suffix -> relative path.

    Raises:
        InvalidInput: two files differ in nothing but the suffix, so that it is open which one labels belong to.
    """
    found: dict[str, Path] = {}
    for file in files:
        if (other := found.setdefault(file.with_suffix("").as_posix(), file)) is not file:
            raise InvalidInput(f"{folder / other} and {folder / file} have the same stem; keep one of them.")
    return found


def read_pixels(path: Path) -> np.ndarray:
    """`read_image`, whose refusal is this image's: `BadImage`."""
    try:
        return read_image(path)
    except ImageError as error:
        raise BadImage(str(error)) from error


def check_memory(masks: int, height: int, width: int, whose: str) -> None:
    """Raise `BadImage` where the masks of one image would not fit: then its labels are not what they seem."""
    if (needed := masks * height * width) > MAX_MASK_BYTES:
        raise BadImage(
            f"{whose} has {masks} objects, whose masks of {width}x{height} pixels need {needed / 1024**3:.0f} GiB; "
            f"check that these are labels of objects."
        )


def fingerprint(content: Iterable[str], names: Sequence[str], paths: Sequence[Path]) -> str:
    """Hex SHA-256 over what the labels are (``content``) and which images there are, by name and size in bytes.

    Sizes, because an image that was changed nearly always changes its length, and hashing a hundred thousand photos
    would take minutes; times of change would differ between copies of the same data.
    """
    digest = hashlib.sha256()
    for text in content:
        digest.update(f"{text}\n".encode())
    for name, path in sorted(zip(names, paths, strict=True)):
        size = os.path.getsize(path) if os.path.isfile(path) else "absent"
        digest.update(f"{name}\0{size}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def hashes(files: Sequence[Path], progress: Progress | None) -> list[str]:
    """Hex SHA-256 of each file's content.

    Raises:
        InvalidInput: a file cannot be opened.
    """
    found = []
    for count, file in enumerate(files, 1):
        try:
            found.append(sha256_file(file))
        except OSError as error:
            raise InvalidInput(f"{file} cannot be read ({error.strerror}); check its permissions.") from error
        if progress:
            progress(count / len(files))
    return found
