"""The record of where, when and of what a result was made, and that files from before still are read."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import onnxruntime
import pytest
import torch

from sparsesam_deploy import provenance
from sparsesam_deploy.accuracy.report.records import Evaluation, Tuning
from sparsesam_deploy.provenance import (
    NOT_INSTALLED,
    UNKNOWN,
    Provenance,
    checked_out_commit,
    command_line,
    driver_version,
    package_versions,
)

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def test_a_record_of_the_cpu(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/opt/bin/sparsesam-export", "tune", "--images", "my photos"])
    found = Provenance.here(torch.device("cpu"), commit="abc")
    assert (found.command, found.commit) == ("sparsesam-export tune --images 'my photos'", "abc")
    created = datetime.fromisoformat(found.created)
    assert created.utcoffset() == timedelta(0) and abs(datetime.now(timezone.utc) - created) < timedelta(minutes=1)
    assert found.date == created.date().isoformat()
    assert list(found.machine) == ["platform", "processor", "device"] and all(found.machine.values())
    assert found.machine["device"] == "cpu" and found.machine["platform"] == platform.platform()
    assert found.versions == package_versions()
    assert Provenance.model_validate_json(found.model_dump_json()) == found


def test_a_record_of_a_gpu(monkeypatch):
    device = torch.device("cuda", 1)
    properties = SimpleNamespace(total_memory=140 * 2**30)
    for name, value in (
        ("get_device_name", "NVIDIA H200"),
        ("get_device_capability", (9, 0)),
        ("get_device_properties", properties),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda which, value=value: which == device and value)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(provenance, "driver_version", lambda: "580.65.06")
    machine = Provenance.here(device).machine
    assert {name: machine[name] for name in list(machine)[2:]} == {
        "device": "NVIDIA H200",
        "compute_capability": "9.0",
        "memory_gib": "140",
        "driver": "580.65.06",
        "cuda": "13.0",
    }


# --- versions ----------------------------------------------------------------------------------------------------


def test_versions_are_those_installed():
    found = package_versions()
    assert next(iter(found)) == "python" and found["torch"] == version("torch")
    assert found["onnxruntime"] == onnxruntime.__version__


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = package_versions()
    assert found["no-such-package"] == found["onnxruntime"] == NOT_INSTALLED != found["torch"]


def test_torch_is_not_imported():
    """It takes seconds, and the doctor asks for the driver alone."""
    code = "import sys; from sparsesam_deploy.provenance import driver_version; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


# --- the command -------------------------------------------------------------------------------------------------


def test_a_module_is_called_by_its_name(tmp_path):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "speed.py").write_text(
        "from sparsesam_deploy.provenance import command_line\nprint(command_line())"
    )
    command = [sys.executable, "-m", "bench.speed", "--json", "a b.json"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout.strip() == "python -m bench.speed --json 'a b.json'", found.stderr


def test_a_script_is_called_by_its_name(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/me/measure.py", "1"])
    assert command_line() == "measure.py 1"


# --- the commit --------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-qm", "first")
    git(tmp_path, "tag", "v1")
    return tmp_path


def test_the_commit_and_whether_the_code_is_that_of_the_commit(checkout):
    head = git(checkout, "rev-parse", "HEAD")
    clean = checked_out_commit(checkout)
    assert head.startswith(clean) and len(clean) >= 7
    (checkout / "code.py").write_text("2")
    assert checked_out_commit(checkout) == f"{clean}+"


def test_a_package_installed_inside_another_checkout_does_not_take_its_commit(checkout):
    (checkout / "site-packages").mkdir()
    assert checked_out_commit(checkout / "site-packages") == UNKNOWN


@pytest.mark.parametrize(
    "failure",
    [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 20), subprocess.CalledProcessError(128, "git")],
)
def test_without_a_git_that_answers_the_commit_is_unknown(checkout, monkeypatch, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(subprocess, "run", fail)
    assert checked_out_commit(checkout) == UNKNOWN


# --- the driver --------------------------------------------------------------------------------------------------


class NVMLError(Exception):
    """As pynvml has it."""


def library(monkeypatch, **functions) -> list[str]:
    """A pretended nvidia-ml-py; returns what was called."""
    calls, module = [], ModuleType("pynvml")
    answers = {
        "nvmlInit": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.65.06",
        "nvmlShutdown": lambda: None,
    }
    module.NVMLError = NVMLError
    for name, answer in (answers | functions).items():
        setattr(module, name, lambda name=name, answer=answer: calls.append(name) or answer())
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return calls


def refuse():
    raise NVMLError("Driver Not Loaded")


def test_the_driver_is_asked_by_nvidia_ml_py(monkeypatch):
    calls = library(monkeypatch)
    assert driver_version() == "580.65.06"
    assert calls == ["nvmlInit", "nvmlSystemGetDriverVersion", "nvmlShutdown"]


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlSystemGetDriverVersion"])
def test_a_driver_that_does_not_answer_is_unknown(monkeypatch, function):
    calls = library(monkeypatch, **{function: refuse})
    assert driver_version() == UNKNOWN
    assert ("nvmlShutdown" in calls) == (function != "nvmlInit")


def test_without_nvidia_ml_py_the_driver_is_unknown(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert driver_version() == UNKNOWN


# --- files from before ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*_nano*.json")), ids=lambda path: path.stem)
def test_committed_results_are_still_read(path):
    content = json.loads(path.read_text())
    if path.stem.startswith("parity"):
        assert content["commit"] and content["versions"]["torch"] and content["rows"]
        return
    document = (Tuning if path.stem.startswith("tuning") else Evaluation).model_validate(content)
    assert document.provenance.model == "sam_vit_nano_fp16.safetensors" and document.provenance.commit
