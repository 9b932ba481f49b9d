"""``sparsesam-export benchmark`` on a small build: what it prints, and its exit codes."""

from __future__ import annotations

import json

import pytest
import torch
from click import UsageError

from sparsesam_deploy.cli.benchmark import benchmark
from sparsesam_deploy.errors import EnvironmentProblem, InvalidInput
from sparsesam_deploy.model.config import PRESETS
from tests.helpers import TINY
from tests.runtime.builds import Build, make_build

ON_CPU = ("--runtime", "onnxruntime", "--device", "cpu", "--iterations", "2")


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Build:
    """Half precision, one image at a time."""
    pytest.importorskip("tensorrt_rtx", reason="builds are made with tensorrt-rtx")
    return make_build(tmp_path_factory.mktemp("build"), TINY, PRESETS["default"], "fp16", (1, 1, 1))


def run(*arguments: object) -> int:
    """The command's exit code; refusals raise."""
    return benchmark.main([str(argument) for argument in arguments], standalone_mode=False) or 0


def test_a_table_for_people(build, capsys):
    assert run(build.folder, *ON_CPU) == 0
    printed = capsys.readouterr()
    assert "CPUExecutionProvider" in printed.out and "images/s" in printed.out
    assert "measure batch 1" in printed.err


@pytest.mark.parametrize(("target", "code"), [("100000", 0), ("0.001", 1)])
def test_the_median_decides(build, capsys, target, code):
    assert run(build.folder, *ON_CPU, "--target-ms", target, "--json") == code
    found = json.loads(capsys.readouterr().out)
    (result,) = found["results"]
    assert found["passed"] == (code == 0) and (result["batch"], result["count"]) == (1, 2)
    assert 0 < result["p50"] <= result["p90"] <= result["p99"]
    assert result["images_per_second"] == pytest.approx(1000 / result["mean"])


def test_what_was_too_slow_is_said(build, capsys):
    assert run(build.folder, *ON_CPU, "--target-ms", "0.001") == 1
    assert "ms, over the 0.001 ms asked" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_the_device_it_is_exit_3(build):
    with pytest.raises(EnvironmentProblem, match="finds no CUDA GPU") as caught:
        run(build.folder)
    assert caught.value.exit_code == 3


def test_a_batch_that_was_not_built(build):
    with pytest.raises(InvalidInput, match="batch 4 is outside this build's 1 to 1; leave it out"):
        run(build.folder, *ON_CPU, "--batch", "1,4")


@pytest.mark.parametrize("sizes", ["0", "1,,2", "many", "²"])
def test_what_is_no_list_of_sizes(build, sizes):
    with pytest.raises(UsageError, match="is no list of batch sizes; give for example 1,4"):
        run(build.folder, *ON_CPU, "--batch", sizes)


@pytest.mark.parametrize("target", ["nan", "inf", "0"])
def test_what_no_time_can_be_compared_with(build, target):
    with pytest.raises(UsageError) as caught:
        run(build.folder, *ON_CPU, "--target-ms", target)
    assert caught.value.param.name == "target_ms"
