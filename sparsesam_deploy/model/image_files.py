"""Which files of a folder are images: the same ones for every command."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..errors import InvalidInput

IMAGE_SUFFIXES = frozenset((".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""What Pillow opens when all its decoders are there. A file that it cannot open here is an error of `read_image`, which
names it, and never left out in silence."""


def files_in(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES, besides: Path | None = None) -> list[Path]:
    """Files of these suffixes (lower case) in ``folder`` and its sub-folders, relative to it, in order of name.

    What starts with a dot is no image, nor is what lies in such a folder: macOS puts ``._photo.png`` beside
    ``photo.png`` into archives. What lies in ``besides``, if that is a folder inside ``folder``, is left out too.

    Raises:
        InvalidInput: ``folder`` is not a folder.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder; name the folder that holds the images or labels.")
    left_out = None if besides is None or folder.resolve() not in besides.resolve().parents else besides.resolve()
    found = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.suffix.lower() not in suffixes or any(part.startswith(".") for part in relative.parts):
            continue
        if path.is_file() and (left_out is None or not path.resolve().is_relative_to(left_out)):
            found.append(relative)
    return sorted(found, key=Path.as_posix)


def image_files(folder: Path, besides: Path | None = None) -> list[Path]:
    """`files_in` for images.

    Raises:
        InvalidInput: ``folder`` is not a folder, or holds no image.
    """
    if not (found := files_in(folder, besides=besides)):
        looked_for = ", ".join(sorted(IMAGE_SUFFIXES))
        raise InvalidInput(
            f"folder {folder} holds no image, nor do its sub-folders (looked for {looked_for}; hidden files do not "
            "count); name a folder that does."
        )
    return found
