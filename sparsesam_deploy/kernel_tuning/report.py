"""What tuning found: trials of launch settings, the winners as entries of the launch table, and the printed report."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..ops.launch import SETTINGS_VARIABLE, Launch
from ..provenance import Provenance


@dataclass(frozen=True)
class Trial:
    """One candidate: the time of one call of its operator, or the reason why it has none."""

    launch: Launch
    microseconds: float | None = None
    reason: str = ""

    @property
    def time(self) -> float:
        """``microseconds`` of a trial without a ``reason``."""
        assert self.microseconds is not None
        return self.microseconds

    @property
    def words(self) -> str:
        """block/num_warps/num_stages."""
        return f"{self.launch.block}/{self.launch.num_warps}/{self.launch.num_stages}"

    def as_json(self) -> dict[str, Any]:
        measured = {"reason": self.reason} if self.reason else {"microseconds": self.microseconds}
        return {name: getattr(self.launch, name) for name in ("block", "num_warps", "num_stages")} | measured


@dataclass(frozen=True)
class Tuned:
    """All trials of one kernel at one width, on the shapes of ``model``; the current settings are the first."""

    kernel: str
    width: int
    model: str
    trials: tuple[Trial, ...]

    @property
    def current(self) -> Trial:
        return self.trials[0]

    @property
    def ranked(self) -> list[Trial]:
        """Those with a time, fastest first, in case of a tie the current one."""
        return sorted((trial for trial in self.trials if not trial.reason), key=lambda trial: trial.time)

    @property
    def left_out(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.reason]

    @property
    def gain(self) -> float | None:
        """Share of the current time that the best settings save."""
        if self.current.reason or not self.ranked:
            return None
        return 1 - self.ranked[0].time / self.current.time

    def entry(self, circumstances: str) -> Launch:
        """The winner, as the launch table has it."""
        best, *others = self.ranked
        measured = f"{best.time:.1f} us, {circumstances}"
        if others:
            measured += f"; next best {others[0].time:.1f} us ({others[0].words})"
        return replace(best.launch, measured=measured)

    def as_json(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel,
            "width": self.width,
            "model": self.model,
            "current": self.current.as_json(),
            "best": self.ranked[0].as_json() if self.ranked else None,
            "gain": self.gain,
            "trials": [trial.as_json() for trial in self.trials],
        }


@dataclass(frozen=True)
class TuningReport:
    """What was measured on which GPU, and the table it was written to."""

    provenance: Provenance
    results: tuple[Tuned, ...]
    output: Path

    @property
    def passed(self) -> bool:
        """Whether every kernel has settings that work."""
        return all(result.ranked for result in self.results)

    @property
    def entries(self) -> list[Launch]:
        """The winners; kernels of which no settings work have none."""
        return [result.entry(self.circumstances) for result in self.results if result.ranked]

    @property
    def circumstances(self) -> str:
        """Where and when, in the words of the launch table."""
        versions = self.provenance.versions
        torch = versions["torch"].split("+")[0]
        return f"{self.gpu}, torch {torch}, triton {versions['triton']}, {self.provenance.date}"

    @property
    def gpu(self) -> str:
        return self.provenance.machine["device"]

    @property
    def use(self) -> str:
        """The shell command that makes programs use the table."""
        return f"export {SETTINGS_VARIABLE}={shlex.quote(str(self.output.resolve()))}"

    def as_json(self) -> dict[str, Any]:
        """The report as plain data; times in microseconds, gains as shares of the current time."""
        return {
            "passed": self.passed,
            "output": str(self.output),
            "use": self.use,
            "provenance": self.provenance.model_dump(),
            "results": [result.as_json() for result in self.results],
        }

    def print(self, console: Console) -> None:
        """A table of what is launched now and what is best, then what was left out and why."""
        table = Table(title=f"block/warps/stages on {escape(self.circumstances)}")
        for name in ("kernel", "width", "current", "us", "best", "us", "gain"):
            table.add_column(name, justify="left" if name == "kernel" else "right")
        for result in self.results:
            table.add_row(result.kernel, str(result.width), *_cells(result))
        console.print(table)
        for result in self.results:
            for trial in result.left_out:
                words = f"left out: {result.kernel} {result.width} {trial.words}: {trial.reason}"
                console.print(words, highlight=False, markup=False, soft_wrap=True)
        words = f"written to {self.output}; use it: {self.use}"
        console.print(words, highlight=False, markup=False, soft_wrap=True)


def _cells(result: Tuned) -> list[str]:
    cells = []
    for trial in (result.current, *result.ranked[:1]):
        cells += [trial.words, "failed" if trial.reason else f"{trial.microseconds:.1f}"]
    if not result.ranked:
        cells += ["none", "[red]failed[/]"]
    return [*cells, "" if result.gain is None else f"{result.gain:.1%}"]
