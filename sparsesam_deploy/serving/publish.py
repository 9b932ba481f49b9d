"""Move finished models and versions into a repository: all of them, or none once the next run has cleared up.

Files cannot be renamed together, so what is about to be moved is written down first. That note goes last; where one is
left, its run was interrupted, and what it names is incomplete.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
from pathlib import Path

from ..artifacts import output_file
from ..errors import InvalidInput

UNFINISHED = ".sparsesam.unfinished"
PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[0-9]+)?")
"""A model, a file beside the models, or a model's version: nothing outside the repository."""


def publish(folder: Path, output: Path, version: int) -> tuple[Path, ...]:
    """Move the models in ``folder`` to ``output``, of those that are there already only ``version``; empty ``folder``.

    Nothing that is there is overwritten. The caller holds the repository's lock (`output_folder`).

    Returns:
        Files beside the models that were there with another content, and stay as they are.
    """
    moves, kept = [], []
    for entry in sorted(folder.iterdir()):
        there = output / entry.name
        if not there.exists():
            moves.append(entry.name)
        elif entry.is_dir():
            moves.append(f"{entry.name}/{version}")
        elif not filecmp.cmp(entry, there, shallow=False):
            kept.append(there)
    with output_file(output / UNFINISHED) as note:
        note.write_text("\n".join(moves), encoding="utf-8")
    try:
        for place in moves:
            os.replace(folder / place, output / place)
    except BaseException:
        undo_interrupted(output)
        raise
    (output / UNFINISHED).unlink()
    shutil.rmtree(folder)
    folder.mkdir()
    return tuple(kept)


def undo_interrupted(output: Path) -> None:
    """Remove what a run that was interrupted while it moved had put into ``output``. The caller holds the lock.

    Raises:
        InvalidInput: its note names something that is no part of a repository.
    """
    note = output / UNFINISHED
    if not note.exists():
        return
    places = note.read_text(encoding="utf-8").split("\n")
    for place in places:
        if not PLACE.fullmatch(place):
            raise InvalidInput(
                f"{note} names {place!r}, which is no model; delete the note, and any version that was half written."
            )
    for place in places:
        path = output / place
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    note.unlink()
