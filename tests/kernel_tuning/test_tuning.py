"""Tuning of the launch settings: candidates, checks, choice and table; where there is no GPU, by a clock of our own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from sparsesam_deploy.errors import CheckFailed, InvalidInput
from sparsesam_deploy.kernel_tuning import tuning, workloads
from sparsesam_deploy.kernel_tuning.report import Trial, Tuned, TuningReport
from sparsesam_deploy.model.config import FAMILIES, SamConfig
from sparsesam_deploy.ops import routed_mlp, triton_language
from sparsesam_deploy.ops.launch import (
    SETTINGS_VARIABLE,
    SHIPPED_SETTINGS,
    Launch,
    compute_capability,
    forced,
    launch_settings,
    read_settings,
    settings_for,
    write_settings,
)
from sparsesam_deploy.progress import Stages
from sparsesam_deploy.provenance import Provenance
from tests.ops.kernels import DEVICE, launch_in_blocks

TINY = SamConfig("tiny", 32, 1, 1, (0,), grid_size=32)
SHIPPED_KERNELS = {entry.kernel for entry in read_settings(SHIPPED_SETTINGS)}
LAUNCH = Launch("routed_mlp.unpack", "9.0", 1280, 4, 4, 1, "before")
PROVENANCE = Provenance(
    command="sparsesam-export tune-kernels",
    created="2026-11-21T23:59:59+00:00",
    versions={"torch": "2.11.0+cu130", "triton": "3.6.0"},
    machine={"device": "NVIDIA H200", "compute_capability": "9.0"},
)
WORDS = "NVIDIA H200, torch 2.11.0, triton 3.6.0, 2026-11-21"
needs_triton = pytest.mark.skipif(triton_language.triton is None, reason="needs triton")
all_problems = pytest.mark.parametrize(
    ("kernel", "width"), tuning.problems(list(FAMILIES)), ids=lambda value: str(value).rpartition(".")[2]
)


def trials(*times: float | None) -> tuple[Trial, ...]:
    """Candidates of 1, 2, 4 rows and so on, with these times; None failed."""
    launches = [replace(LAUNCH, block=1 << index) for index in range(len(times))]
    return tuple(
        Trial(launch, reason="out of resource: shared memory") if time is None else Trial(launch, time)
        for launch, time in zip(launches, times, strict=True)
    )


def tuned(*times: float | None) -> Tuned:
    return Tuned(LAUNCH.kernel, LAUNCH.width, "vit_h", trials(*times))


def settings(launch: Launch) -> tuple[int, int, int]:
    return launch.block, launch.num_warps, launch.num_stages


@pytest.fixture
def tiny(monkeypatch, tmp_path) -> None:
    """``nano`` is one head on a 32x32 grid, launched in blocks that the interpreter likes, with no other candidate."""
    monkeypatch.setattr(workloads, "DENSITY", 0.3)
    monkeypatch.setitem(FAMILIES, "nano", TINY)
    launch_in_blocks(monkeypatch, tmp_path, 256)
    for kernel, grid in tuning.GRIDS.items():
        monkeypatch.setitem(tuning.GRIDS, kernel, replace(grid, blocks=()))


@pytest.fixture
def timed(monkeypatch) -> list[Callable]:
    """What was timed. Without a GPU tuning takes the CPU for one, by a clock on which everything takes as long."""
    calls, clock = [], tuning.graph_time if DEVICE.type == "cuda" else lambda run: 100.0

    def timing(run: Callable[[], Any]) -> float:
        calls.append(run)
        return clock(run)

    monkeypatch.setattr(tuning, "current_gpu", lambda: DEVICE)
    monkeypatch.setattr(tuning, "graph_time", timing)
    return calls


def test_every_kernel_of_the_table_is_measured():
    assert set(workloads.WORKLOADS) == set(tuning.GRIDS) == SHIPPED_KERNELS


@all_problems
def test_candidates(kernel: str, width: int):
    """The current settings come first and nothing twice, even where the grid lacks them or holds them."""
    for capability in ("any", "9.0", "10.0"):
        current = settings_for(kernel, capability, width)
        for first in (replace(current, width=width), replace(current, width=width, block=16, num_stages=7)):
            found = [settings(launch) for launch in tuning.candidates(first)]
            assert found[0] == settings(first) and len(set(found)) == len(found) > 2
            assert all(launch.kernel == kernel for launch in tuning.candidates(first))
    if "own_tile" in kernel:
        assert {block for block, _, _ in found[1:]} == {64}


def test_candidates_that_registers_exclude():
    def wide(kernel: str, width: int) -> set[tuple[int, int, int]]:
        return {
            settings(launch) for launch in tuning.candidates(replace(settings_for(kernel, "9.0", width), width=width))
        }

    assert len(wide("stripe_attention.lattice", 64)) == 2 * 2 * 4
    assert not any((128, 4, stages) in wide("stripe_attention.lattice", 80) for stages in range(5))
    assert (1, 2, 1) in wide("routed_mlp.score", 1280) and (1, 1, 1) not in wide("routed_mlp.score", 1280)
    assert (1, 8, 1) in wide("routed_mlp.unpack", 1280) and (1, 8, 1) not in wide("routed_mlp.unpack", 768)


def test_a_width_is_measured_once_on_the_largest_model_that_has_it():
    found = tuning.problems(("vit_h", "vit_l", "vit_b"))
    assert found == tuning.problems(("vit_b", "vit_l", "vit_h", "vit_b"))
    lattice = {
        width: config.family for (kernel, width), config in found.items() if kernel == "stripe_attention.lattice"
    }
    score = {width: config.family for (kernel, width), config in found.items() if kernel == "routed_mlp.score"}
    assert lattice == {64: "vit_l", 80: "vit_h"} and score == {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}


@pytest.mark.parametrize(
    ("times", "best", "gain", "measured"),
    [
        ((13.0, None, 12.34, 15.0), 4, 0.0508, "12.3 us, {}; next best 13.0 us (1/4/1)"),
        ((12.0, 12.0), 1, 0.0, "12.0 us, {}; next best 12.0 us (2/4/1)"),
        ((None, 9.0), 2, None, "9.0 us, {}"),
    ],
    ids=("faster", "tie", "current-fails"),
)
def test_the_fastest_that_works_wins(times, best: int, gain: float | None, measured: str):
    result = tuned(*times)
    (entry,) = TuningReport(PROVENANCE, (result,), Path("table.toml")).entries
    words = measured.format(WORDS)
    assert entry == replace(LAUNCH, block=best, measured=words)
    assert result.gain == pytest.approx(gain, abs=1e-4) if gain is not None else result.gain is None
    assert [trial.launch.block for trial in result.left_out] == [1 << i for i, time in enumerate(times) if time is None]


def test_what_is_written_is_what_is_launched(tmp_path):
    path = tmp_path / "table.toml"
    entry = tuned(13.0, 12.0).entry('a "quoted" GPU\n[[launch]] # \\ é \x7f \U0001f600')
    write_settings(path, [entry])
    assert read_settings(path) == (entry,)
    assert settings_for(entry.kernel, "9.0", 1280, str(path)) == entry
    assert settings_for(entry.kernel, "8.9", 1280, str(path)) == settings_for(entry.kernel, "8.9", 1280)


def test_forced_settings_are_those_of_one_kernel_and_end_with_the_block():
    before = launch_settings(LAUNCH.kernel, DEVICE, 1280)
    with pytest.raises(KeyError), forced(replace(LAUNCH, block=128)):
        assert launch_settings(LAUNCH.kernel, DEVICE, 1280).block == 128
        assert launch_settings("routed_mlp.given", DEVICE, 1280) == settings_for(
            "routed_mlp.given", compute_capability(DEVICE), 1280
        )
        raise KeyError
    assert launch_settings(LAUNCH.kernel, DEVICE, 1280) == before


@needs_triton
@pytest.mark.usefixtures("tiny")
def test_the_whole_command(timed, sparsesam_export, tmp_path, monkeypatch):
    """Every kernel is launched and agrees with the reference, and the table that is written is used."""
    output = tmp_path / "new" / "table.toml"
    result = sparsesam_export("tune-kernels", "--model", "nano", "--output", output, "--json")
    assert result.code == 0, result.err
    printed = json.loads(result.out)
    assert {found["kernel"] for found in printed["results"]} == SHIPPED_KERNELS
    assert not any("reason" in trial for found in printed["results"] for trial in found["trials"])
    assert (
        printed["passed"]
        and printed["provenance"]["machine"].get("compute_capability", "any") == compute_capability(DEVICE)
        and len(timed) == len(SHIPPED_KERNELS)
    )
    assert printed["use"] == f"export {SETTINGS_VARIABLE}={output}"
    assert [path.name for path in output.parent.iterdir()] == ["table.toml"]
    monkeypatch.setenv(SETTINGS_VARIABLE, str(output))
    for entry in read_settings(output):
        assert entry.width == 32 and entry.measured.endswith(printed["provenance"]["created"][:10])
        assert launch_settings(entry.kernel, DEVICE, 32) == entry


@needs_triton
@pytest.mark.usefixtures("tiny")
def test_settings_with_which_a_kernel_is_wrong_or_does_not_launch_are_left_out(timed, monkeypatch):
    from triton.runtime.errors import OutOfResources

    correct = routed_mlp.triton.routed_mlp_unpack

    def broken(x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        out, block = correct(x, *others), launch_settings("routed_mlp.unpack", DEVICE, 32).block
        if block == 128:
            out[0, 500] = 0
        if block == 512:
            out[0, 0, 0] = float("nan")
        if block == 1024:
            raise OutOfResources(262144, 232448, "shared memory")
        return out

    monkeypatch.setattr(routed_mlp.triton, "routed_mlp_unpack", broken)
    monkeypatch.setattr(tuning, "candidates", lambda current: [replace(current, block=128 << i) for i in range(4)])
    monkeypatch.setattr(tuning, "WORKLOADS", {"routed_mlp.unpack": tuning.WORKLOADS["routed_mlp.unpack"]})
    monkeypatch.setattr(tuning, "problems", lambda models: {("routed_mlp.unpack", 32): TINY})
    (result,) = tuning.tune(["nano"], DEVICE, tuning.graph_time)
    reasons = {trial.launch.block: trial.reason for trial in result.left_out}
    assert reasons.keys() == {128, 512, 1024} and len(timed) == 1
    assert reasons[128].startswith("wrong result, relative error 0.") and "error inf" in reasons[512]
    assert reasons[1024].startswith("out of resource: shared memory, Required: 262144")
    assert result.ranked[0].launch.block == 256 and result.gain is None


def test_what_a_kernel_leaves_unwritten_is_not_taken_from_the_one_before():
    expected = torch.ones(1 << 16)
    outputs = iter((1 << 16, 1 << 15))

    def run() -> torch.Tensor:
        out = torch.empty(1 << 16)
        out[: next(outputs)] = 1
        return out

    workload = workloads.Workload(run, expected)
    assert tuning.try_launch(workload, LAUNCH, lambda run: 1.0) == Trial(LAUNCH, 1.0)
    assert "error inf" in tuning.try_launch(workload, LAUNCH, lambda run: 1.0).reason
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.fixture
def quick(monkeypatch, timed) -> Iterator[None]:
    """One kernel, measured at once."""
    monkeypatch.setattr(tuning, "tune", lambda *_: iter([tuned(13.0, 12.0)]))
    monkeypatch.setattr(tuning.Provenance, "here", lambda device: PROVENANCE)


@pytest.mark.usefixtures("quick")
def test_a_table_that_is_there_keeps_what_was_not_measured(tmp_path):
    output = tmp_path / "table.toml"
    others = [replace(LAUNCH, compute_capability="8.9"), replace(LAUNCH, width=768)]
    write_settings(output, [*others, LAUNCH])
    report = tuning.tune_kernels(["vit_h"], output, Stages(Console(quiet=True)))
    assert read_settings(output) == (*others, *report.entries) and report.entries[0].block == 2


@pytest.mark.usefixtures("quick")
def test_a_failure_leaves_the_table_that_was_there(tmp_path, monkeypatch):
    output, stages = tmp_path / "table.toml", Stages(Console(quiet=True))
    write_settings(output, [LAUNCH])
    before = output.read_bytes()

    def interrupted(*_: object) -> Iterator[Tuned]:
        yield tuned(1.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "tune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuning.tune_kernels(["vit_h"], output, stages)
    monkeypatch.setattr(tuning, "tune", lambda *_: iter([tuned(None)]))
    with pytest.raises(CheckFailed, match=r"no launch settings work on NVIDIA H200.*shared memory; use backend"):
        tuning.tune_kernels(["vit_h"], output, stages)
    assert [path.name for path in tmp_path.iterdir()] == ["table.toml"] and output.read_bytes() == before


@pytest.mark.usefixtures("quick")
def test_a_file_that_is_no_table_is_not_overwritten(tmp_path):
    output = tmp_path / "notes.txt"
    output.write_text("mine")
    with pytest.raises(InvalidInput, match=r"notes.txt cannot be used"):
        tuning.tune_kernels(["vit_h"], output, Stages(Console(quiet=True)))
    assert output.read_text() == "mine"


@pytest.mark.usefixtures("quick")
def test_one_kernel_without_settings_is_exit_1_and_the_others_are_written(sparsesam_export, tmp_path, monkeypatch):
    failed = replace(tuned(None), kernel="routed_mlp.given")
    monkeypatch.setattr(tuning, "tune", lambda *_: iter([failed, tuned(13.0, 12.0)]))
    monkeypatch.chdir(tmp_path)
    result = sparsesam_export("tune-kernels")
    assert result.code == 1 and "left out: routed_mlp.given 1280 1/4/1: out of resource: shared memory" in result.out
    assert [entry.kernel for entry in read_settings(tmp_path / "launch_settings.toml")] == ["routed_mlp.unpack"]


def test_report_shows_current_best_and_gain_and_how_to_use_them():
    stream = StringIO()
    path = Path("/tmp/with space/table.toml")
    report = TuningReport(PROVENANCE, (tuned(13.0, None, 12.0), tuned(None, 9.0), tuned(None)), path)
    report.print(Console(file=stream, width=120))
    lines = stream.getvalue().splitlines()
    rows = [line.strip("│ ").replace("│", " ").split() for line in lines if "│ routed_mlp.unpack" in line]
    assert rows == [
        ["routed_mlp.unpack", "1280", "1/4/1", "13.0", "4/4/1", "12.0", "7.7%"],
        ["routed_mlp.unpack", "1280", "1/4/1", "failed", "2/4/1", "9.0"],
        ["routed_mlp.unpack", "1280", "1/4/1", "failed", "none", "failed"],
    ]
    assert "NVIDIA H200, torch 2.11.0" in lines[0] and sum(line.startswith("left out: ") for line in lines) == 3
    assert lines[-1].endswith(f"use it: export {SETTINGS_VARIABLE}='{path}'")
    first, _, last = json.loads(json.dumps(report.as_json()))["results"]
    assert first["best"] == {"block": 4, "num_warps": 4, "num_stages": 1, "microseconds": 12.0}
    assert first["trials"][1]["reason"] == "out of resource: shared memory" and last["best"] is None


def test_unknown_model_is_exit_2(sparsesam_export):
    result = sparsesam_export("tune-kernels", "--model", "vit_x")
    assert result.code == 2 and "'vit_x' is not one of" in result.err


@pytest.mark.parametrize("missing", [pytest.param("GPU", marks=needs_triton), "triton"])
def test_refused_without(missing: str, sparsesam_export, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if missing == "triton":
        monkeypatch.setattr(triton_language, "triton", None)
    result = sparsesam_export("tune-kernels", "--output", tmp_path / "table.toml", "--json")
    words = {"GPU": "torch finds no GPU", "triton": "triton is not installed"}[missing]
    assert result.code == 3 and words in result.err and not list(tmp_path.iterdir())
    assert json.loads(result.out)["exit_code"] == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_clock_of_a_gpu():
    x = torch.randn(4096, 4096, device="cuda")
    small, large = torch.randn(64, 64, device="cuda"), x
    assert 0 < tuning.graph_time(lambda: small.add(1)) < tuning.graph_time(lambda: large.add(1)) < 1e4
