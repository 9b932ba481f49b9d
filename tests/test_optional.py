"""A package that is not installed: exit code 3 and one sentence that names it, what needed it and the extra."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsesam_deploy.accuracy.data import rle
from sparsesam_deploy.accuracy.data.coco_json import read_images
from sparsesam_deploy.accuracy.evaluation.prompts import deepest_pixel
from sparsesam_deploy.accuracy.report import page, pareto, pictures
from sparsesam_deploy.accuracy.report.drawing import Drawing, save_png
from sparsesam_deploy.errors import EnvironmentProblem
from sparsesam_deploy.ops import triton_language
from sparsesam_deploy.optional import EXTRAS, importing, install, missing, module_of, require
from sparsesam_deploy.parity.onnx_runner import OnnxRunner
from sparsesam_deploy.parity.overlay import draw_overlay
from sparsesam_deploy.runtime.onnx_runtime import OnnxRuntime
from sparsesam_deploy.runtime.openvino_runtime import OpenVinoRuntime
from sparsesam_deploy.serving.config import schema

NANO = ("--model", "nano", "--output", "out")
BUILD = ("build", *NANO, "--builder", "tensorrt-rtx")


def block(patch: pytest.MonkeyPatch, package: str) -> None:
    """Python then behaves as if the package, or its Python module alone, were not installed."""
    blocked = module_of(package)
    for module in [blocked, *(name for name in sys.modules if name.startswith(f"{blocked}."))]:
        patch.setitem(sys.modules, module, None)


def sentence(package: str, user: str, extra: str) -> str:
    """A pattern of the whole message."""
    return rf"{package} (is|are) not installed, which {user} needs; {re.escape(install(extra))}[^.]*\.$"


COMMANDS = {
    "build-engine": (BUILD, "tensorrt-rtx", "an engine by --builder tensorrt-rtx", "rtx"),
    "build-tensorrt": ((*BUILD[:-1], "tensorrt"), "tensorrt", "an engine by --builder tensorrt", "tensorrt"),
    "build-proof": (BUILD, "onnxruntime", "the proof of a build", "onnxruntime"),
    "build-overlay": ((*BUILD, "--overlay"), "matplotlib", "--overlay", "accuracy"),
    "engine": (("engine", "x.onnx", *BUILD[3:]), "tensorrt-rtx", "an engine by --builder tensorrt-rtx", "rtx"),
    "verify": (("verify", ".", "--model", "nano"), "onnxruntime", "verify", "onnxruntime"),
    "verify-overlay": (
        ("verify", ".", "--model", "nano", "--overlay", "x.png"),
        "matplotlib",
        "--overlay",
        "accuracy",
    ),
    **{f"evaluate-{package}": (("evaluate", *NANO), package, "evaluate", "accuracy") for package in EXTRAS["accuracy"]},
    "evaluate-exported": (("evaluate", *NANO, "--exported", "."), "onnxruntime", "--exported", "onnxruntime"),
    "evaluate-openvino": (
        ("evaluate", *NANO, "--exported", ".", "--runtime", "openvino"),
        "openvino",
        "--exported",
        "openvino",
    ),
    "tune": (("tune", *NANO), "scipy", "tune", "accuracy"),
    "triton-server": (
        ("triton-server", ".", "-o", "out"),
        "tritonclient",
        "a repository in Triton's configuration schema",
        "serving",
    ),
}


@pytest.mark.parametrize(("arguments", "package", "user", "extra"), COMMANDS.values(), ids=COMMANDS)
def test_a_command_says_what_it_lacks_at_once(sparsesam_export, monkeypatch, tmp_path, arguments, package, user, extra):
    """Before it reads or writes anything: no file that these commands name exists."""
    pytest.importorskip("tensorrt_rtx", reason="a builder is asked for before the proof")
    monkeypatch.chdir(tmp_path)
    block(monkeypatch, package)
    outcome = sparsesam_export(*arguments)
    assert outcome.code == 3 and not outcome.out
    assert re.fullmatch("error: " + sentence(package, user, extra), outcome.err.strip()), outcome.err
    assert not list(tmp_path.iterdir())


def test_kernels_say_that_triton_is_missing(sparsesam_export, monkeypatch):
    monkeypatch.setattr(triton_language, "triton", None)
    outcome = sparsesam_export("tune-kernels")
    assert outcome.code == 3
    assert re.fullmatch("error: " + sentence("triton", "backend 'triton'", "triton"), outcome.err.strip()), outcome.err


POINT = pareto.Point("a", "1", 0.5, pareto.Interval(mean=0.0, low=-0.1, high=0.1), "point")
USES: dict[str, tuple[str, str, str, Callable[[], object]]] = {
    "onnx-runner": ("onnxruntime", "running x.onnx", "onnxruntime", lambda: OnnxRunner(Path("x.onnx"))),
    "backend-cpu": (
        "onnxruntime",
        "--runtime onnxruntime",
        "onnxruntime",
        lambda: OnnxRuntime(Path(), None, torch.device("cpu")),
    ),
    "backend-gpu": (
        "onnxruntime",
        "--runtime onnxruntime",
        "onnxruntime-gpu",
        lambda: OnnxRuntime(Path(), None, torch.device("cuda", 0)),
    ),
    "openvino": ("openvino", "--runtime openvino", "openvino", lambda: OpenVinoRuntime(Path())),
    "overlay": ("matplotlib", "the overlay", "accuracy", lambda: draw_overlay(None, Path("x.png"))),
    "plots": ("matplotlib", "a report's plots", "accuracy", lambda: save_png(Drawing(1, 1, ""), Path("x.png"))),
    "ticks": (
        "matplotlib",
        "a report's plots",
        "accuracy",
        lambda: pareto.draw(pareto.Panel("", "flops", (POINT,)), 300, 300),
    ),
    "page": ("jinja2", "a report", "accuracy", page._environment.__wrapped__),
    "pictures": (
        "scipy",
        "a report's pictures",
        "accuracy",
        lambda: pictures._outline(np.zeros((9, 9, 3)), np.ones((9, 9), bool), pictures.MASK, 1),
    ),
    "centre": ("scipy", "a centre prompt", "accuracy", lambda: deepest_pixel(np.ones((3, 3), bool))),
    "coco": ("ijson", "COCO instance JSON", "accuracy", lambda: read_images(Path("x.json"), lambda share: None)),
    "polygons": ("pycocotools", "COCO's polygons and run lengths", "accuracy", rle._coco_mask.__wrapped__),
    "serving": ("tritonclient", "a repository in Triton's configuration schema", "serving", schema),
}


@pytest.mark.parametrize(("package", "user", "extra", "use"), USES.values(), ids=USES)
def test_what_imports_a_package_says_that_it_is_missing(monkeypatch, package, user, extra, use):
    block(monkeypatch, package)
    with pytest.raises(EnvironmentProblem) as caught:
        use()
    assert re.fullmatch(sentence(package, user, extra), str(caught.value)), caught.value
    assert caught.value.exit_code == 3


def test_extras_are_those_of_the_package():
    """`EXTRAS` names every package of every extra, but for the site's and for those that are made of others."""
    declared: dict[str, set[str]] = {}
    for requirement in metadata.requires("sparsesam-deploy"):
        name = re.match(r"[\w-]+", requirement)[0]
        if extra := re.search(r"extra == ['\"]([\w-]+)['\"]", requirement):
            declared.setdefault(extra[1], set()).add(name)
    assert declared.pop("all-cpu") == {"sparsesam-deploy"} and declared.pop("dev") > {"sparsesam-deploy", "pytest"}
    assert "mkdocs-material" in declared.pop("docs")
    assert declared == {extra: set(packages) for extra, packages in EXTRAS.items()}


def test_several_packages_are_named_in_one_sentence(monkeypatch):
    for package in ("scipy", "ijson", "jinja2"):
        block(monkeypatch, package)
    assert missing(EXTRAS["accuracy"]) == ["scipy", "jinja2", "ijson"]
    with pytest.raises(EnvironmentProblem) as caught:
        require("it", *EXTRAS["accuracy"])
    assert str(caught.value) == f"scipy, jinja2 and ijson are not installed, which it needs; {install('accuracy')}."


@pytest.mark.parametrize(
    ("raised", "words", "remedy"),
    [
        (OSError("libnvinfer.so.11:\n  cannot open"), r"\(libnvinfer.so.11: cannot open\)", "--force-reinstall triton"),
        (ModuleNotFoundError("No module named 'grpc'", name="grpc"), r"\(No module named 'grpc'\)", "deploy[triton]'"),
        (RuntimeError(), r"\(RuntimeError\)", "--force-reinstall triton"),
    ],
    ids=("library", "its own dependency", "wordless"),
)
def test_a_package_that_does_not_load_says_why(raised, words, remedy):
    expected = rf"^triton does not load {words}, which it .*{re.escape(remedy)}\.$"
    with pytest.raises(EnvironmentProblem, match=expected), importing("triton", "it"):
        raise raised
