"""Files that take seconds, made once for all tests and for all workers that run them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from sparsesam_deploy.model.config import SamConfig
from tests.helpers import TINY, save_random_checkpoint


class MadeOnce:
    """Files by what decides their content, in a folder that ``conftest.py`` chooses for the whole run."""

    folder: Path

    def __call__(self, name: str, what: object, make: Callable[[Path], None]) -> Path:
        """The file of that name, written by ``make`` where it is told; ``what`` says in its repr what it depends on.

        Not to be edited: others read it.
        """
        folder = self.folder / hashlib.sha256(f"{name} {what!r}".encode()).hexdigest()[:16]
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                partial = folder.with_suffix(".partial")
                partial.mkdir()
                make(partial / name)
                partial.rename(folder)
        return folder / name


made_once = MadeOnce()


def random_checkpoint(config: SamConfig = TINY) -> Path:
    """``tiny.safetensors``, so that whoever loads it exports the same files."""
    return made_once("tiny.safetensors", config, lambda path: save_random_checkpoint(path, config))
