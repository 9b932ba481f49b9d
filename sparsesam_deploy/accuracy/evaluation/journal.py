"""The journal of a long run: one line for each thing done, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import InvalidInput


class Journal:
    """Lines of JSON in ``path``; the first says what the run is about (``plan``), the others what was found.

    Nothing of it is kept in memory but the indices of what is done.

    Raises:
        InvalidInput: the file belongs to another plan, or is damaged.
    """

    def __init__(self, path: Path, plan: dict[str, Any]) -> None:
        self.path = path
        self.done: set[int | str] = set()
        plan, whole = json.loads(json.dumps(plan)), 0
        if path.exists():
            try:
                whole = self._read(plan)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InvalidInput(f"{path} is damaged ({error}); remove it or give --restart.") from error
            os.truncate(path, whole)
        if whole == 0:
            self._append(plan)

    def _read(self, plan: dict[str, Any]) -> int:
        """Find out what is done; returns the size of all whole lines."""
        whole = 0
        with open(self.path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # torn by whatever killed the run: that one is done again
                entry = json.loads(line)
                if whole:
                    self.done.add(entry["index"])
                elif entry != plan:
                    changed = sorted(key for key in {*entry, *plan} if entry.get(key) != plan.get(key))
                    raise InvalidInput(
                        f"{self.path} holds an unfinished run with another choice of {', '.join(changed)}; repeat that "
                        "command, give another --output, or --restart to drop it."
                    )
                whole += len(line)
        return whole

    def add(self, index: int | str, entry: dict[str, Any]) -> None:
        """Keep what was found about ``index``; it is on disk when this returns."""
        self._append({"index": index, **entry})
        self.done.add(index)

    def entries(self) -> Iterator[dict[str, Any]]:
        """What `add` was given, in that order."""
        with open(self.path, encoding="utf-8") as file:
            next(file)
            yield from map(json.loads, file)

    def _append(self, entry: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
