"""``evaluate`` and ``tune`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.accuracy.pictures import picture
from tests.accuracy.test_tune import MINIATURE
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


REFUSED = {
    "no-images": (("--model", "nano", "--output", "x"), "give --images DIR"),
    "two-truths": (
        ("--model", "nano", "--images", ".", "--labels", ".", "--masks", ".", "--output", "x"),
        "two ground",
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
        ("--model", "nano", "--images", "tests/data/holdout", "--symmetries", 2, "--prompt", "file:x", "--output", "x"),
        "leave --symmetries out",
    ),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_evaluate_refuses(arguments, words, sparsesam_export):
    outcome = sparsesam_export("evaluate", *arguments)
    assert outcome.code == 2
    assert words in outcome.err and not Path("x").exists()


def test_a_journal_of_another_run_is_refused(evaluate, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evaluation.journal").write_text('{"seed": 7}\n')
    outcome = evaluate()
    assert outcome.code == 2 and "--restart" in outcome.err
    assert evaluate("--restart").code == 0


TUNE_REFUSED = {
    "no-budget": ((), "no budget was given"),
    "two-costs": (("--target-ms", 5, "--max-cost", 0.5), "two costs to reach"),
    "table-alone": (("--max-cost", 0.5, "--cost-table", "README.md"), "--cost-table is for --target-ms"),
    "too-few": (("--max-cost", 0.5), "2 images are too few"),
}


@pytest.mark.parametrize(("arguments", "words"), TUNE_REFUSED.values(), ids=TUNE_REFUSED.keys())
def test_tune_refuses(arguments, words, photos, tmp_path, sparsesam_export):
    places = ("--images", photos / "images", "--output", tmp_path / "out")
    outcome = sparsesam_export("tune", "--checkpoint", photos / "miniature.safetensors", *places, *arguments)
    assert outcome.code == 2
    assert words in outcome.err and not (tmp_path / "out").exists()
