"""Files that are complete or absent: temporary names and renames, one writer a folder, hashes.

Nothing is ever written under its final name. A build works in ``.partial`` inside the output folder and moves the
finished files out together; whatever interrupts it leaves the previous build untouched, and the next one clears up.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import EnvironmentProblem, InvalidInput

PARTIAL = ".partial"
LOCK = ".sparsesam.lock"


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file) -> str:
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
                f"disk full while writing to {path}; free space there or choose another --output."
            ) from error
        if error.errno in (
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOTDIR,
            errno.EEXIST,
            errno.EISDIR,
            errno.ENOENT,
        ):
            raise InvalidInput(
                f"cannot write to {where}: {error.strerror.lower()}; choose another --output."
            ) from error
        raise


@contextmanager
def output_folder(final: Path) -> Iterator[Path]:
    """Give a fresh folder to write into; its files move to ``final`` on success, a failure leaves ``final`` alone.

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
            for file in sorted(partial.iterdir()):
                os.replace(file, final / file.name)
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
