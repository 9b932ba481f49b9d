"""Everything that needs a GPU, in one command and under eight minutes: checks, then benchmarks.

Run by ``make gpu-check``. Each part is a process of its own with a time limit, so that one that fails, hangs or breaks
the GPU's context stops no other. Prints short tables last; writes JSON and a picture named after the GPU. Exit 0
nothing failed (what cannot run here is not run, a missed performance target is missed), 1 a check failed, 3 no GPU.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import encoder_speed, speed_plot
from benchmarks.results import file_stem, progress, save
from benchmarks.timing import reason
from checks.outcome import Outcome
from checks.targets import SPEED_UP, Target, targets
from sparsesam_deploy.errors import EnvironmentProblem
from sparsesam_deploy.provenance import Provenance

ROOT = Path(__file__).parents[1]
LIMIT = 475
"""Seconds for all parts together."""
COMPILE_SECONDS = 240
"""More for a family whose baseline torch.compile compiles."""
KERNEL_TESTS = (
    "tests/ops/test_stripe_attention_triton.py",
    "tests/ops/test_routed_mlp_triton.py",
    "tests/runtime/test_captured.py",
    "tests/runtime/test_timing.py",
    "tests/model/test_backend.py",
)
RUNTIME_TESTS = "tests/runtime/test_on_a_gpu.py"
LINES = 400
"""Of a part's output that are kept to judge it by."""
MEMORY_ERRORS = 99
"""Exit code that compute-sanitizer is told to use."""
FRAME = "========="
"""What its own lines begin with."""


@dataclass(frozen=True)
class Finished:
    """How a command ended: its exit code, None where it was stopped at its limit, and its last lines."""

    code: int | None
    lines: tuple[str, ...]

    @property
    def last(self) -> str:
        return next((line.strip() for line in reversed(self.lines) if line.strip()), "no output")

    def line_with(self, *words: str) -> str | None:
        """The last line with one of ``words``."""
        return next((line.strip() for line in reversed(self.lines) if any(word in line for word in words)), None)


Judge = Callable[[Finished, dict | None], list[Outcome]]


@dataclass(frozen=True)
class Part:
    """One process: its time limit, its command (the file for its JSON is appended), and how its end is judged.

    ``why_not`` says why it cannot run here, if so.
    """

    name: str
    seconds: float
    command: tuple[str, ...]
    judge: Judge
    writes_json: bool = True
    environment: dict[str, str] = field(default_factory=dict)
    why_not: str | None = None


def run_command(command: Sequence[str], seconds: float, environment: dict[str, str]) -> Finished:
    """Run at most ``seconds``, output passed on to stderr; whatever the command started ends with it."""
    surroundings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**surroundings, "PYTHONUNBUFFERED": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    lines: deque[str] = deque(maxlen=LINES)

    def pass_on() -> None:
        for line in process.stdout:
            click.echo(line, err=True, nl=False)
            lines.append(line)

    reader = threading.Thread(target=pass_on, daemon=True)
    reader.start()
    code = None
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        progress(f"stopped after {seconds:.0f} s")
    finally:
        _kill(process)
        process.wait()
        reader.join(5)  # a worker in a session of its own may keep the pipe open
    return Finished(code, tuple(lines))


def _kill(process: subprocess.Popen) -> None:
    """End the process that we started and its children, which are a group of their own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def judge_tests(name: str) -> Judge:
    def judge(finished: Finished, results: dict | None) -> list[Outcome]:
        if finished.code is None:
            return [Outcome(name, "failed", "stopped at the time limit; run them alone to see which test hangs")]
        missing = finished.line_with("ModuleNotFoundError", "PackageNotFoundError")
        if finished.code in (2, 4) and missing:
            return [Outcome(name, "not run", missing.removeprefix("E ").strip())]
        return [Outcome(name, "failed" if finished.code else "passed", finished.last.strip("= "))]

    return judge


def judge_memory(finished: Finished, results: dict | None) -> list[Outcome]:
    name = "kernels under compute-sanitizer"
    if finished.code is None:
        return [Outcome(name, "not run", "it took longer than its time limit")]
    summary = finished.line_with("ERROR SUMMARY") or finished.last
    if finished.code in (0, MEMORY_ERRORS):
        return [Outcome(name, "failed" if finished.code else "passed", _unframed(summary))]
    if refused := finished.line_with("not supported", "ModuleNotFoundError"):
        return [Outcome(name, "not run", _unframed(refused))]
    own = [line for line in finished.lines if not line.startswith(FRAME)]
    return [Outcome(name, "failed", f"exit code {finished.code}: {Finished(None, tuple(own)).last}")]


def _unframed(line: str) -> str:
    return line.removeprefix(FRAME).strip()


def judge_checks(name: str) -> Judge:
    def judge(finished: Finished, results: dict | None) -> list[Outcome]:
        found = [Outcome(**check) for check in (results or {}).get("checks", ())]
        if finished.code is None:
            return [*found, Outcome(name, "not run", "stopped at the time limit")]
        broke = finished.code and not any(outcome.status == "failed" for outcome in found)
        return [*found, *([Outcome(name, "failed", finished.last)] if broke else [])]

    return judge


def judge_benchmark(name: str) -> Judge:
    def judge(finished: Finished, results: dict | None) -> list[Outcome]:
        rows = (results or {}).get("rows", ())
        wrong = [row for row in rows if row["status"] == "failed"]
        timed = sum(row["status"] == "timed" for row in rows)
        words = f"{timed} of {len(rows)} variants compared and timed"
        if wrong:
            first = f"{wrong[0]['name']}, batch {wrong[0]['batch']}: {wrong[0]['detail']}"
            return [Outcome(name, "failed", f"{words}; {len(wrong)} failed, first {first}")]
        if finished.code is None:
            return [Outcome(name, "not run", f"{words} before the time limit")]
        return [Outcome(name, "failed", finished.last) if finished.code else Outcome(name, "passed", words)]

    return judge


def parts(compiled: bool) -> list[Part]:
    """All parts, in order."""
    python = sys.executable
    sanitizer = shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin")
    memory = ("--tool", "memcheck", "--report-api-errors", "no", "--error-exitcode", str(MEMORY_ERRORS))
    workers = min(8, (os.cpu_count() or 1) // 2)  # kernels are compiled for each test, on the CPU
    spread = ("-n", str(workers)) if workers > 1 and importlib.util.find_spec("xdist") else ()
    pytest = (python, "-m", "pytest", "-q", "--color=no")
    pytest_missing = None if importlib.util.find_spec("pytest") else "pytest is not installed"

    def module(name: str, *options: str) -> tuple[str, ...]:
        return (python, "-m", name, *options)

    def encoder(family: str, seconds: float) -> Part:
        options, more = (("--compile",), COMPILE_SECONDS) if compiled else ((), 0)
        name = f"encoder {family}"
        return Part(name, seconds + more, module("benchmarks.encoder_speed", family, *options), judge_benchmark(name))

    return [
        Part(
            "kernel tests",
            110,
            (*pytest, *spread, *KERNEL_TESTS),
            judge_tests("kernel tests on the GPU"),
            writes_json=False,
            why_not=pytest_missing,
        ),
        Part(
            "memory check",
            50,
            (sanitizer or "", *memory, *module("checks.kernel_smoke")),
            judge_memory,
            writes_json=False,
            environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},  # so that a write past a tensor leaves its allocation
            why_not=None if sanitizer else "compute-sanitizer is not on the PATH",
        ),
        Part("reference", 25, module("checks.engine_checks", "--kind", "reference"), judge_checks("reference")),
        Part("engines", 30, module("checks.engine_checks", "--kind", "engines"), judge_checks("engines")),
        Part(
            "runtime tests",
            20,
            (*pytest, RUNTIME_TESTS),
            judge_tests("runtime tests on the GPU"),
            writes_json=False,
            why_not=pytest_missing,
        ),
        Part("plugins", 45, module("checks.plugin_checks"), judge_checks("plugins")),
        Part("attention", 60, module("benchmarks.attention_speed"), judge_benchmark("attention")),
        encoder("vit_b", 35),
        encoder("vit_l", 40),
        encoder("vit_h", 60),
    ]


PART_NAMES = tuple(part.name for part in parts(False))


def run_part(part: Part, seconds: float, folder: Path) -> tuple[list[Outcome], dict | None]:
    """Outcomes of a part, and what it measured, as far as it came."""
    if part.why_not:
        return [Outcome(part.name, "not run", part.why_not)], None
    if seconds < 5:
        return [Outcome(part.name, "not run", "no time was left")], None
    path = folder / f"{part.name.replace(' ', '_')}.json"
    command = (*part.command, "--json", str(path)) if part.writes_json else part.command
    finished = run_command(command, seconds, part.environment)
    try:
        results = json.loads(path.read_text()) if path.is_file() else None
        return part.judge(finished, results), results
    except Exception as problem:  # one part's surprise stops no other
        return [Outcome(part.name, "failed", reason(problem))], None


def run_all(chosen: Sequence[Part], patience: float, results: dict, report: Callable[[dict], None]) -> list[Outcome]:
    """Run parts one after the other; ``results`` is filled and reported after each."""
    outcomes: list[Outcome] = []
    compiling = sum(COMPILE_SECONDS for part in chosen if "--compile" in part.command)
    end = time.monotonic() + patience * (LIMIT + compiling)
    with tempfile.TemporaryDirectory() as folder:
        for part in chosen:
            start = time.monotonic()
            seconds = min(patience * part.seconds, end - start)
            progress(f"{part.name}: at most {seconds:.0f} s")
            found, measured = run_part(part, seconds, Path(folder))
            outcomes += found
            results["checks"] = [asdict(outcome) for outcome in outcomes]
            results["seconds"][part.name] = round(time.monotonic() - start, 1)
            if part.name == "attention":
                results["attention"] = measured
            elif measured and part.name.startswith("encoder "):
                results["encoder"][part.name.removeprefix("encoder ")] = measured
            judged = targets(results["attention"], results["encoder"])
            results["targets"] = [target.as_json() for target in judged]
            report(results)
    return outcomes


def print_tables(console: Console, results: dict, outcomes: Sequence[Outcome], judged: Sequence[Target]) -> None:
    """Checks, the encoder at batch 1 in a few figures, and targets; every detail is in the JSON."""
    gpu = results["provenance"]["machine"]["device"]
    checks = _table(f"{gpu}: checks")
    for outcome in outcomes:
        checks.add_row(outcome.check, outcome.status, escape(outcome.detail))
    speed = _table(f"{gpu}: encoder, fp16, batch 1, ms", "model", "eager, graph", "dense", "default", "its products")
    for family in SPEED_UP:
        speed.add_row(family, *encoder_summary(results["encoder"].get(family, {}).get("rows", ())))
    goals = _table(f"{gpu}: targets", "target", "measured", "asked for", "")
    for target in judged:
        asked = f"{'at least' if target.at_least else 'at most'} {target.limit:.3g}"
        measured = "" if target.value is None else f"{target.value:.3g}"
        goals.add_row(target.name, measured, asked, target.verdict)
    console.print(checks, "", speed, "", goals)


def encoder_summary(rows: Sequence[dict]) -> list[str]:
    """Milliseconds at batch 1: eager in a graph, fused dense, default preset, and its matrix products alone."""
    first = {row["name"]: row for row in rows if row["batch"] == 1}
    cells = []
    for name in (encoder_speed.GRAPH, "density 1", encoder_speed.DEFAULT):
        row = first.get(name)
        cells.append(f"{row['timing']['median'] / 1e3:.2f}" if row and row["timing"] else "not measured")
    floor = first.get(encoder_speed.DEFAULT, {}).get("floor")
    return [*cells, f"{floor['median'] / 1e3:.2f}" if floor else "not measured"]


def _table(title: str, *headings: str) -> Table:
    made = Table(*headings, title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    made.show_header = bool(headings)
    return made


def draw_plot(results: dict, path: Path) -> Outcome:
    try:
        title = speed_plot.title_of(Provenance.model_validate(results["provenance"]))
        speed_plot.draw(results["encoder"], title, path)
    except EnvironmentProblem as problem:
        return Outcome("plot", "not run", str(problem))
    except Exception as problem:  # the figures are in the JSON
        return Outcome("plot", "failed", reason(problem))
    return Outcome("plot", "passed", str(path))


@click.command(help=__doc__.splitlines()[0])
@click.option("--json", "path", type=click.Path(path_type=Path), help="Where the results go [docs/results/<gpu>.json].")
@click.option("--part", "names", type=click.Choice(PART_NAMES), multiple=True, help="Run this part alone; repeatable.")
@click.option("--compile/--no-compile", "compiled", default=False, help="Compile eager encoders too, in minutes.")
@click.option("--patience", type=click.FloatRange(0.1), default=1.0, help="Multiplies every time limit.")
@click.option("--commit", help="What to call the code, where the working tree carries no git folder.")
def main(path: Path | None, names: tuple[str, ...], compiled: bool, patience: float, commit: str | None) -> None:
    if not torch.cuda.is_available():
        click.echo("error: no CUDA device was found; run this on a machine with a GPU.", err=True)
        sys.exit(3)
    start = time.monotonic()
    path = path or ROOT / "docs" / "results" / f"{file_stem(torch.cuda.get_device_name())}.json"
    made = Provenance.here(torch.device("cuda"), commit).model_dump()
    results = {"provenance": made, "checks": [], "targets": [], "seconds": {}, "attention": None, "encoder": {}}
    chosen = [part for part in parts(compiled) if not names or part.name in names]
    outcomes = run_all(chosen, patience, results, lambda results: save(path, results))
    if results["encoder"]:
        outcomes.append(draw_plot(results, path.with_suffix(".png")))
    results["checks"] = [asdict(outcome) for outcome in outcomes]
    results["seconds"]["all"] = round(time.monotonic() - start, 1)
    save(path, results)
    print_tables(Console(width=130), results, outcomes, targets(results["attention"], results["encoder"]))
    click.echo(f"\n{path}, {results['seconds']['all']:.0f} s")
    sys.exit(any(outcome.status == "failed" for outcome in outcomes))


if __name__ == "__main__":
    main()
