"""``evaluate`` and ``tune`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsesam_deploy.errors import CheckFailed
from sparsesam_deploy.ops.routing import SHARING
from tests.accuracy.miniature import MINIATURE
from tests.accuracy.pictures import picture
from tests.helpers import save_random_checkpoint


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two images with label maps, and a checkpoint that takes no time."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for index in range(2):
        item = picture(index)
        Image.fromarray(item.pixels).save(folder / "images" / f"{index}.png")
        labels = np.zeros(item.pixels.shape[:2], np.uint8)
        for value, mask in enumerate(item.masks, start=1):
            labels[mask & (labels == 0)] = value
        Image.fromarray(labels).save(folder / "labels" / f"{index}.png")
    save_random_checkpoint(folder / "miniature.safetensors", MINIATURE)
    return folder


@pytest.fixture
def evaluate(photos, tmp_path, sparsesam_export):
    def run(*arguments: object, labels: bool = True):
        truth = ("--labels", photos / "labels") if labels else ()
        places = ("--images", photos / "images", *truth, "--output", tmp_path / "out")
        return sparsesam_export("evaluate", "--checkpoint", photos / "miniature.safetensors", *places, *arguments)

    return run


def test_evaluate_writes_what_it_says(evaluate, tmp_path):
    outcome = evaluate("--density", 0.4, "--order", "lattice", "--order", "ranked", "--json")
    assert outcome.code == 0, outcome.err
    printed = json.loads(outcome.out)
    assert [variant["name"] for variant in printed["variants"]] == [
        "dense",
        "lattice 0.4, MLP share-variance 0.4",
        "ranked 0.4, MLP share-variance 0.4",
    ]
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["variants"] == printed["variants"] and printed["passed"]
    names = {file.name for file in (tmp_path / "out").iterdir()} - {".sparsesam.lock"}
    assert names == {"evaluation.json", "objects.csv", "report.html", "pareto.png"}


def test_the_accuracy_floor_is_a_check(evaluate):
    outcome = evaluate("--mlp-density", 0.25, "--attention-density", 0.02, "--max-miou-drop", 0)
    assert outcome.code == 1, outcome.err
    assert "mean IoU by box is" in outcome.out and "over the 0 allowed" in outcome.out


PROMPTS = "tests/data/holdout/holdout.json"
NANO = ("--model", "nano", "--images", "tests/data/holdout", "--output", "x")
REFUSED = {
    "no-images": (("--model", "nano", "--output", "x"), "give --images DIR"),
    "two-truths": (
        ("--model", "nano", "--images", ".", "--labels", ".", "--masks", ".", "--output", "x"),
        "two kinds of ground truth",
    ),
    "prompt": (("--model", "nano", "--images", "tests/data/holdout", "--prompt", "x", "--output", "x"), "prompt 'x'"),
    "prompt-twice": (
        ("--model", "nano", "--images", "tests/data/holdout", "--prompt", "box", "--prompt", "box", "--output", "x"),
        "given twice",
    ),
    "gpu": (("--model", "nano", "--images", ".", "--torch-backend", "triton", "--output", "x"), "needs a GPU"),
    "device": (("--model", "nano", "--images", ".", "--device", "tpu9", "--output", "x"), "device 'tpu9' is unknown"),
    "ignored": (
        ("--model", "nano", "--images", "tests/data/holdout", "--ignore-label", "255", "--output", "x"),
        "give --labels DIR",
    ),
    "mirrored-file": (
        (*NANO, "--symmetries", 2, "--prompt", f"file:{PROMPTS}"),
        "leave --symmetries out",
    ),
    "file-without-an-image": ((*NANO, "--prompt", f"file:{PROMPTS}"), "has no image 00.png"),
    "runtime": ((*NANO, "--runtime", "tensorrt"), "give --exported DIR"),
    "variant-twice": ((*NANO, "--preset", "paper", "--preset", "paper"), "'preset paper' is asked for twice"),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_evaluate_refuses(arguments, words, sparsesam_export):
    outcome = sparsesam_export("evaluate", *arguments)
    assert outcome.code == 2
    assert words in outcome.err and not Path("x").exists()


def test_recipes_of_one_name_are_two_variants(evaluate, tmp_path):
    """And their GELU is the one they build."""
    for name, density in (("a", 0.3), ("b", 0.5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.toml").write_text(f'mlp_density = {density}\ngelu = "tanh"\n')
    recipes = [tmp_path / name / "recipe.toml" for name in ("a", "b")]
    outcome = evaluate("--recipe", recipes[0], "--recipe", recipes[1], "--json")
    _, *variants = json.loads(outcome.out)["variants"]
    assert [variant["name"] for variant in variants] == [f"recipe {recipe}" for recipe in recipes]
    assert [variant["settings"]["mlp_density"] for variant in variants] == [0.3, 0.5]
    assert all("tanh GELU" in variant["computed_by"] for variant in variants)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_exported_folder_is_a_variant(runtime, evaluate, photos, tmp_path, sparsesam_export):
    """fp32 under another runtime loses what PyTorch loses with the same settings."""
    arguments = ("--checkpoint", photos / "miniature.safetensors", "--density", 0.4, "--dtype", "fp32")
    assert sparsesam_export("onnx", *arguments, "--output", tmp_path / "exported").code == 0
    outcome = evaluate("--exported", tmp_path / "exported", "--runtime", runtime, "--density", 0.4, "--json")
    _, ours, exported = json.loads(outcome.out)["variants"]
    assert {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}[runtime] in exported["computed_by"] and exported[
        "cost"
    ] == ours["cost"]
    assert exported["embedding_error"]["mean"] == pytest.approx(ours["embedding_error"]["mean"], rel=1e-3)
    for figure in ("iou", "boundary_iou", "agreement"):
        assert exported["scores"][0][figure]["mean"] == pytest.approx(ours["scores"][0][figure]["mean"], abs=2e-3)


def test_a_journal_of_another_run_is_refused(evaluate, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evaluation.journal").write_text('{"seed": 7}\n')
    outcome = evaluate()
    assert outcome.code == 2 and "--restart" in outcome.err
    assert evaluate("--restart").code == 0


TUNE_REFUSED = {
    "no-budget": ((), "no budget was given"),
    "two-costs": (("--target-ms", 5, "--max-cost", 0.5), "both name a cost to reach"),
    "table-alone": (("--max-cost", 0.5, "--cost-table", "README.md"), "--cost-table is for --target-ms"),
    "too-few": (("--max-cost", 0.5), "2 images are too few"),
}


@pytest.mark.parametrize(("arguments", "words"), TUNE_REFUSED.values(), ids=TUNE_REFUSED.keys())
def test_tune_refuses(arguments, words, photos, tmp_path, sparsesam_export):
    places = ("--images", photos / "images", "--output", tmp_path / "out")
    outcome = sparsesam_export("tune", "--checkpoint", photos / "miniature.safetensors", *places, *arguments)
    assert outcome.code == 2
    assert words in outcome.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("routing", SHARING)
def test_tune_searches_the_routing_asked_for(routing, photos, tmp_path, monkeypatch, sparsesam_export):
    def stop(setting, *rest):
        raise CheckFailed(f"searching {setting.space.routing}.")

    monkeypatch.setattr("sparsesam_deploy.accuracy.tuning.run.tune", stop)
    for index in range(8):
        Image.fromarray(picture(index).pixels).save(tmp_path / f"{index}.png")
    arguments = ("--images", tmp_path, "--max-cost", 0.5, "--routing", routing, "--output", tmp_path / "out")
    outcome = sparsesam_export("tune", "--checkpoint", photos / "miniature.safetensors", *arguments)
    assert outcome.code == 1 and f"searching {routing}." in outcome.err
