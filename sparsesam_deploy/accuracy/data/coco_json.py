"""The two lists of a COCO instance file, streamed in either order, and the checks on what identifies their entries."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

from ...errors import InvalidInput
from ...optional import importing
from .files import Progress
from .rle import MAX_PIXELS

_CHUNK = 1 << 18
_MAX_ID = 2**63 - 1


@dataclass(eq=False)
class Images:
    """The listed images: relative names, sizes in pixels, and ``positions`` of ids in these lists."""

    names: list[str] = field(default_factory=list)
    heights: array[int] = field(default_factory=lambda: array("i"))
    widths: array[int] = field(default_factory=lambda: array("i"))
    positions: dict[int, int] = field(default_factory=dict)


def read_images(file: Path, progress: Progress) -> Images:
    """The list "images".

    Raises:
        InvalidInput: the file is no such JSON, or an image has no id, size or name, or one that is not its own.
    """
    found, names = Images(), set()
    for count, entry in enumerate(_Stream(file, "images", progress)):
        where = f"image number {count + 1} of {file}"
        identifier, height, width = (_integer(entry, key, where) for key in ("id", "height", "width"))
        name = _safe_name(entry.get("file_name"), where)
        if identifier in found.positions or name in names:
            what = f"id {identifier}" if identifier in found.positions else f"file name {name!r}"
            raise InvalidInput(f"{where} has the {what} of an earlier image; list every image once.")
        if height < 1 or width < 1 or height * width > MAX_PIXELS:
            raise InvalidInput(f"{where} is {width}x{height} pixels, which no image can be; correct its size.")
        found.positions[identifier] = len(found.names)
        found.names.append(name)
        found.heights.append(height)
        found.widths.append(width)
        names.add(name)
    if not found.names:
        raise InvalidInput(f'{file} lists no "images"; name COCO instance JSON.')
    return found


class Annotations:
    """The list "annotations", as (id, image id, is crowd, segmentation); ``sha256`` of the file after the last one.

    Raises:
        InvalidInput: the file is no such JSON, or an annotation does not say which one it is and of which image.
    """

    sha256: str

    def __init__(self, file: Path, progress: Progress) -> None:
        self._file, self._progress = file, progress

    def __iter__(self) -> Iterator[tuple[int, int, bool, object]]:
        stream = _Stream(self._file, "annotations", self._progress)
        for count, entry in enumerate(stream):
            try:  # a million times: the sentence is built where it is needed
                identifier, image = entry["id"], entry["image_id"]
                sound = type(identifier) is type(image) is int and -_MAX_ID <= identifier <= _MAX_ID
            except (TypeError, KeyError):
                sound = False
            if not sound:
                where = f"annotation number {count + 1} of {self._file}"
                identifier, image = (_integer(entry, key, where) for key in ("id", "image_id"))
            yield identifier, image, bool(entry.get("iscrowd")), entry.get("segmentation")
        self.sha256 = stream.sha256


class _Stream:
    """The entries of one list at the top of a JSON file, each built alone; ``sha256`` of the file after the last."""

    sha256: str

    def __init__(self, file: Path, key: str, progress: Progress) -> None:
        self._file, self._key, self._progress = file, key, progress

    def __iter__(self) -> Iterator[Any]:
        with importing("ijson", "COCO instance JSON"):
            import ijson
        try:
            with open(self._file, "rb") as opened:
                counted = _Counted(opened, self._progress)
                yield from ijson.items(counted, f"{self._key}.item", use_float=True, buf_size=_CHUNK)
        except OSError as error:
            raise InvalidInput(f"{self._file} cannot be read ({error.strerror}); check the path.") from error
        except (ijson.JSONError, ValueError) as error:  # ValueError: text that is not UTF-8, on some back ends
            text = error.args[0] if error.args else ""
            reason = (text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)).partition("\n")[0]
            raise InvalidInput(f"{self._file} is not JSON ({reason}); write it again or download it again.") from error
        self.sha256 = counted.digest.hexdigest()


class _Counted:
    """A file to read that hashes what is read and reports how far it is."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file, self._progress = file, progress
        self._size, self._done = os.fstat(file.fileno()).st_size, 0
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self.digest.update(chunk)
        self._done += len(chunk)
        self._progress(min(1.0, self._done / max(1, self._size)))
        return chunk


def _integer(entry: object, key: str, where: str) -> int:
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not int or not -_MAX_ID <= value <= _MAX_ID:
        raise InvalidInput(f'{where} has "{key}" {value!r:.80}, not an integer; name COCO instance JSON.')
    return value


def _safe_name(name: object, where: str) -> str:
    """A ``file_name`` as a relative path with forward slashes that stays where it is put, on every system."""
    if not isinstance(name, str) or not name.strip("./"):
        raise InvalidInput(f'{where} has "file_name" {name!r:.80}; name a file in the folder of images.')
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    if windows.drive or windows.root or posix.root or ".." in windows.parts or "\0" in name:
        raise InvalidInput(
            f"{where} has the file name {name!r:.200}, which leads out of the folder of images; make it relative."
        )
    return posix.as_posix()
