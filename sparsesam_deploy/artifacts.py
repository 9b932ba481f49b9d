"""Files that are complete or absent: temporary names and renames, one writer a folder, hashes.

Nothing is ever written under its final name. A build works in ``.partial`` inside the output folder and moves the
finished files out together; whatever interrupts it leaves the previous build untouched, and the next one clears up.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from .errors import EnvironmentProblem, InvalidInput

PARTIAL = ".partial"
LOCK = ".sparsesam.lock"


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into sentences with a remedy."""
    try:
        yield
    except OSError as error:
        where = Path(error.filename or path)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentProblem(
                f"disk full while writing to {path}; free space there or choose another place."
            ) from error
        reason = (error.strerror or str(error)).lower()
        raise InvalidInput(f"cannot write to {where}: {reason}; choose another place.") from error


@contextmanager
def output_folder(final: Path, replaces: Sequence[str] = ()) -> Iterator[Path]:
    """Give a fresh folder to write into; its files move to ``final`` on success, a failure leaves ``final`` alone.

    ``replaces`` names files that are wrong about what is written, and go if they are not written anew.

    Raises:
        InvalidInput: ``final`` cannot be written, or another process is writing to it.
        EnvironmentProblem: the disk is full.
    """
    with _explained(final):
        final.mkdir(parents=True, exist_ok=True)
        lock = FileLock(final / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InvalidInput(
                f"another sparsesam-export is writing to {final}; wait for it or choose another --output."
            ) from None
        partial = final / PARTIAL
        try:
            shutil.rmtree(partial, ignore_errors=True)  # what a killed build left
            partial.mkdir()
            yield partial
            written = sorted(partial.iterdir())
            for file in written:
                os.replace(file, final / file.name)
            for name in {*replaces} - {file.name for file in written} if written else ():
                (final / name).unlink(missing_ok=True)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            lock.release()


@contextmanager
def output_file(final: Path) -> Iterator[Path]:
    """Give a temporary name beside ``final``; on success rename it, on failure remove it. Raises as `output_folder`."""
    partial = final.with_name(f".{final.name}.{os.getpid()}{PARTIAL}")
    with _explained(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, final)
        finally:
            partial.unlink(missing_ok=True)
