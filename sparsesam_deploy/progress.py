"""Wall time and peak memory of each stage, shown while it runs and kept for reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[[float, str], None]
"""Report progress of the running stage: a share in [0, 1] and a few words."""


@dataclass(frozen=True)
class StageRecord:
    """One finished stage: ``seconds`` of wall time, ``peak_mib`` of resident memory of this process while it ran."""

    name: str
    seconds: float
    peak_mib: int


class Stages:
    """Runs named stages one after another, with a live line on ``console`` and a record of each."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.records: list[StageRecord] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[Advance]:
        start = time.perf_counter()
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(24), TimeElapsedColumn())
        with (
            _PeakMemory() as memory,
            Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress,
        ):
            task = progress.add_task(name, total=None)

            def advance(share: float, words: str = "") -> None:
                progress.update(task, total=1.0, completed=share, description=f"{name} {words}".strip())

            yield advance
        record = StageRecord(name, round(time.perf_counter() - start, 2), memory.peak_mib)
        self.records.append(record)
        self.console.print(
            f"[green]done[/] {name:<34} {record.seconds:7.1f} s  {record.peak_mib:6d} MiB peak", highlight=False
        )

    def as_dicts(self) -> list[dict[str, Any]]:
        """The records as plain data, for JSON."""
        return [asdict(record) for record in self.records]


class _PeakMemory:
    """This process's peak resident memory while it is entered.

    Linux keeps the peak itself, once told to start afresh. Elsewhere it is sampled twenty times a second, which misses
    peaks inside calls that hold the interpreter lock.
    """

    def __enter__(self) -> _PeakMemory:
        self._process, self._stop, self._peak = psutil.Process(), threading.Event(), 0
        self._kept_by_kernel = self._restart_kernel_peak()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    @staticmethod
    def _restart_kernel_peak() -> bool:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return False
        return True

    def _watch(self) -> None:
        while True:
            self._peak = max(self._peak, self._process.memory_info().rss)
            if self._stop.wait(0.05):
                return

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._kept_by_kernel:
            status = Path("/proc/self/status").read_text()
            self._peak = max(self._peak, int(status.split("VmHWM:")[1].split()[0]) << 10)

    @property
    def peak_mib(self) -> int:
        return self._peak >> 20


QUIET_SECONDS = 30
"""How often a long count says where it is when there is no terminal to draw a bar on."""


@contextmanager
def counted(
    console: Console, name: str, total: int, done: int = 0, unit: str = ""
) -> Iterator[Callable[[int, str], None]]:
    """A bar over ``total`` things with the time left, ``done`` of them from an earlier run.

    Gives a function of the number of things done and a few words about the next one. Without a terminal it prints a
    line every half minute. What has a ``unit``, like ``images``, is said to take so many a second.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    start = last = time.monotonic()
    reached = done

    def rate() -> str:
        return f"{(reached - done) / max(time.monotonic() - start, 1e-9):.2f} {unit}/s" if unit else ""

    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total, completed=done, rate="")

        def advance(count: int, words: str) -> None:
            nonlocal last, reached
            reached = count
            progress.update(task, completed=count, description=f"{name} {words}".strip(), rate=rate())
            now = time.monotonic()
            if not console.is_terminal and count > done and now - last >= QUIET_SECONDS:
                last, left = now, (now - start) / (count - done) * (total - count)
                speed = f", {rate()}" if unit else ""
                console.print(f"{name}: {count} of {total}{speed}, about {left / 60:.0f} min left", highlight=False)

        yield advance
    words = f"[green]done[/] {name:<34} {time.monotonic() - start:7.1f} s  {rate()}"
    console.print(words.rstrip(), highlight=False)
