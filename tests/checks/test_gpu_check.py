"""``make gpu-check`` without a GPU: its parts judged from made-up ends, its tables, its JSON and its picture."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageColor
from rich.console import Console

from benchmarks import attention_speed, encoder_speed, speed_plot
from benchmarks.results import file_stem, save
from checks import engine_checks, gpu_check, kernel_smoke
from checks.gpu_check import Finished, Part, judge_benchmark, judge_checks, judge_memory, judge_tests, run_command
from checks.outcome import Outcome
from checks.targets import targets
from sparsesam_deploy.provenance import Provenance
from tests.benchmarks.synthetic import PROVENANCE, all_results, attention_results


def finished(code: int | None, *lines: str) -> Finished:
    return Finished(code, tuple(f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    ("end", "status", "words"),
    [
        (finished(0, "...", "== 93 passed, 2 skipped in 40 s =="), "passed", "93 passed, 2 skipped in 40 s"),
        (finished(1, "FAILED a", "1 failed, 92 passed in 40 s"), "failed", "1 failed, 92 passed in 40 s"),
        (finished(4, "E   ModuleNotFoundError: No module named 'safetensors'", ""), "not run", "safetensors"),
        (finished(4, "ERROR: file or directory not found"), "failed", "not found"),
        (finished(None, "..."), "failed", "time limit"),
    ],
    ids=("passed", "failed", "package-missing", "file-missing", "overrun"),
)
def test_kernel_tests_are_judged(end: Finished, status: str, words: str):
    (outcome,) = judge_tests("kernel tests on the GPU")(end, None)
    assert outcome.status == status and words in outcome.detail


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (finished(0, "5 variants ran", "========= ERROR SUMMARY: 0 errors"), "passed"),
        (finished(99, "========= Invalid __global__ write", "========= ERROR SUMMARY: 3 errors"), "failed"),
        (finished(1, "========= Error: Device not supported. See the documentation", "========= No attach"), "not run"),
        (finished(1, "not finite: dense", "========= ERROR SUMMARY: 0 errors"), "failed"),
        (finished(None, "kernels: dense"), "not run"),
    ],
    ids=("clean", "errors", "no-support", "wrong", "overrun"),
)
def test_the_memory_check_is_judged(end: Finished, status: str):
    (outcome,) = judge_memory(end, None)
    assert outcome.status == status
    assert "=====" not in outcome.detail


def test_a_benchmark_fails_with_its_variants_and_keeps_what_it_measured():
    judge = judge_benchmark("attention")
    (failed,) = judge(finished(1), attention_results())
    assert failed.status == "failed" and "3 failed, first windowed, dense, batch 1: wrong" in failed.detail
    good = {"rows": [row for row in attention_results()["rows"] if row["timing"]]}
    assert judge(finished(0), good) == [Outcome("attention", "passed", "9 of 9 variants compared and timed")]
    assert judge(finished(None), good)[0].status == "not run"
    assert judge(finished(-11, "Segmentation fault"), good) == [Outcome("attention", "failed", "Segmentation fault")]


def test_checks_are_those_of_the_part():
    passed = Outcome("reference", "passed", "fine")
    results = {"checks": [asdict(passed)]}
    judge = judge_checks("reference")
    assert judge(finished(0), results) == [passed]
    assert judge(finished(None), results)[1].status == "not run"
    assert judge(finished(1, "RuntimeError: x"), None) == [Outcome("reference", "failed", "RuntimeError: x")]


def test_missing_packages_are_named():
    def checks():
        yield Outcome("a", "passed", "")
        raise ModuleNotFoundError("No module named 'pydantic'")

    found = list(engine_checks.outcomes_of("engines", checks))
    assert [outcome.status for outcome in found] == ["passed", "not run"]
    assert found[1].detail == "No module named 'pydantic'"


def test_a_command_is_stopped_with_its_children_and_stderr_is_kept():
    end = run_command([sys.executable, "-c", "import sys; print('out'); sys.exit('err')"], 30, {})
    assert end.code == 1 and sorted(line.strip() for line in end.lines) == ["err", "out"]
    start = time.monotonic()
    child = "import subprocess, sys; print('up', flush=True); subprocess.run([sys.executable, '-c', 'input()'])"
    code = f"{child.replace('input()', 'import time; time.sleep(60)')}"
    end = run_command([sys.executable, "-c", code], 2, {})
    assert end.code is None and end.last == "up" and time.monotonic() - start < 10


def test_every_part_runs_something_that_is_there():
    commands = [part.command for part in gpu_check.parts(compiled=True)]
    modules = {command[command.index("-m") + 1] for command in commands}
    assert modules == {"pytest", *(f"benchmarks.{name}_speed" for name in ("attention", "encoder"))} | {
        f"checks.{name}" for name in ("kernel_smoke", "engine_checks", "plugin_checks")
    }
    assert all(importlib.util.find_spec(module) for module in modules)
    tests = [word for command in commands for word in command if word.startswith("tests/")]
    assert len(tests) == 6 and all((gpu_check.ROOT / test).is_file() for test in tests)


def test_the_interpreter_is_switched_off_in_parts(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    end = run_command([sys.executable, "-c", "import os; print(os.environ.get('TRITON_INTERPRET'))"], 30, {"A": "1"})
    assert end.last == "None"


def test_one_part_stops_no_other(tmp_path):
    write = "import json, sys; json.dump({'rows': []}, open(sys.argv[2], 'w'))"
    bad = Part("reference", 20, (sys.executable, "-c", "raise SystemExit('broken')"), judge_checks("reference"))
    absent = Part("memory check", 20, ("",), judge_memory, why_not="not here")
    good = Part("encoder vit_b", 20, (sys.executable, "-c", write), judge_benchmark("encoder vit_b"))
    results = {"provenance": PROVENANCE, "checks": [], "targets": [], "seconds": {}, "attention": None, "encoder": {}}
    reports = []
    outcomes = gpu_check.run_all([bad, absent, good], 1.0, results, lambda r: reports.append(len(r["checks"])))
    assert [outcome.status for outcome in outcomes] == ["failed", "not run", "passed"]
    assert reports == [1, 2, 3] and results["encoder"] == {"vit_b": {"rows": []}}
    assert len(results["targets"]) == 27


def test_the_command_writes_json_and_picture(tmp_path, monkeypatch):
    """Parts are replaced by one that copies made-up results; the rest is as on a GPU."""
    save(tmp_path / "vit_b.json", all_results()["encoder"]["vit_b"])
    copy = f"import shutil, sys; shutil.copy({str(tmp_path / 'vit_b.json')!r}, sys.argv[2])"
    part = Part("encoder vit_b", 20, (sys.executable, "-c", copy), judge_benchmark("encoder vit_b"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H200")
    made = lambda device, commit: Provenance(**{**PROVENANCE, "commit": commit})  # noqa: E731
    monkeypatch.setattr(gpu_check.Provenance, "here", made)
    monkeypatch.setattr(gpu_check, "parts", lambda compiled: [part])
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    result = CliRunner().invoke(gpu_check.main, ["--commit", "abc"])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "docs" / "results"
    assert sorted(path.name for path in folder.iterdir()) == ["h200.json", "h200.png"]
    written = json.loads((folder / "h200.json").read_text())
    assert written["provenance"]["commit"] == "abc" and written["encoder"].keys() == {"vit_b"}
    assert [check["status"] for check in written["checks"]] == ["passed", "passed"]
    assert "vit_b encoder, default preset, speed-up" in result.output


def test_all_parts_fit_the_limit():
    parts = gpu_check.parts(compiled=False)
    assert [part.name for part in parts] == list(gpu_check.PART_NAMES)
    assert sum(part.seconds for part in parts) <= gpu_check.LIMIT < 8 * 60


def test_parts_run_what_is_there():
    commands = [part.command for part in gpu_check.parts(compiled=True)]
    tests = {word for command in commands for word in command if word.endswith(".py")}
    assert tests == {*gpu_check.KERNEL_TESTS, gpu_check.RUNTIME_TESTS}
    assert all((gpu_check.ROOT / path).is_file() for path in tests)
    modules = {word for command in commands for option, word in pairwise(command) if option == "-m"} - {"pytest"}
    assert {module.partition(".")[0] for module in modules} == {"benchmarks", "checks"}
    assert all(find_spec(module) for module in modules)


def test_tables_and_json_of_results(tmp_path):
    results = all_results()
    outcomes = [Outcome("engines", "not run", "No module named 'x' [pip install]"), Outcome("plot", "passed", "a.png")]
    judged = targets(results["attention"], results["encoder"])
    console = Console(width=130)
    with console.capture() as captured:
        gpu_check.print_tables(console, results, outcomes, judged)
    words = captured.get()
    assert "[pip install]" in words and "missed by 20 %" in words
    assert ["vit_h", "120.00", "30.00", "12.00", "9.60"] in [line.split() for line in words.splitlines()]
    results["attention"]["rows"][0]["error"] = float("nan")
    save(tmp_path / "sub" / "h200.json", results)
    written = json.loads((tmp_path / "sub" / "h200.json").read_text())
    assert written["attention"]["rows"][0]["error"] is None
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["h200.json"]


def test_the_picture_is_drawn_from_what_there_is(tmp_path):
    results = all_results()
    assert gpu_check.draw_plot(results, tmp_path / "full.png").status == "passed"
    speed_plot.draw({"vit_b": {"rows": results["encoder"]["vit_b"]["rows"][:1]}}, "little", tmp_path / "little.png")
    full, little = (drawn(tmp_path / name) for name in ("full.png", "little.png"))
    legend = little["vit_l"]  # of which it shows the entry in the legend alone
    assert legend > 0 and min(full.values()) > 2 * legend


def drawn(path: Path) -> dict[str, int]:
    """Pixels of each family's own colour."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return {
        family: int((pixels == np.array(ImageColor.getrgb(colour))).all(-1).sum())
        for family, colour in speed_plot.COLOURS.items()
    }


@pytest.mark.parametrize(
    ("gpu", "stem"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA GeForce RTX 4090", "geforce_rtx_4090"),
        ("NVIDIA H100 80GB HBM3", "h100_80gb_hbm3"),
    ],
)
def test_files_are_named_after_the_gpu(gpu: str, stem: str):
    assert file_stem(gpu) == stem


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (gpu_check.main, []),
        (attention_speed.main, []),
        (encoder_speed.main, ["vit_b"]),
        (engine_checks.main, ["--json", "x.json"]),
        (kernel_smoke.main, []),
    ],
    ids=("gpu_check", "attention", "encoder", "engines", "smoke"),
)
def test_without_a_gpu_the_exit_code_is_3(command, arguments: list[str], monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 3 and "no CUDA device was found" in result.output
