"""Every program of ``examples/``, by the command line that its text gives and beside segment_anything's own answers.

The build in the folder that they run in is dense, so that segment_anything itself, with the same weights, is the
oracle. What an example says of the program that it was before is run too: each line below ``# before:`` replaced by it.
"""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import onnxruntime
import pytest
import segment_anything
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils.onnx import SamOnnxModel

from sparsesam_deploy.engines.manifest import Checkpoint, FileRecord
from sparsesam_deploy.export.encoder import export_encoder
from sparsesam_deploy.export.options import ExportOptions
from sparsesam_deploy.model.checkpoint import load_checkpoint
from sparsesam_deploy.model.config import DENSE
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.model.image import preprocess, read_image
from sparsesam_deploy.parity.samples import SHIPPED
from tests.comparison import relative_error
from tests.engines.runtime.folders import make_folder

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py"))
WITHOUT = ("torch", "torchvision", "segment_anything", "sparsesam_deploy", "onnx", "scipy", "cv2")
BLOCKED = """
import runpy, sys
sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))  # `import` then raises, as where it is not installed
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_checkpoint, decoder_of) -> Path:
    """A folder that has what the examples' command lines name; the photos are 384x303, and 300x400 beside it."""
    place = tmp_path_factory.mktemp("examples")
    for name in ("sam_vit_h_4b8939.pth", "sam.safetensors"):  # a checkpoint is read by its content
        shutil.copyfile(tiny_checkpoint, place / name)
    loaded = load_checkpoint(tiny_checkpoint)
    onnx = place / "build"  # as `sparsesam-export onnx` leaves it: no manifest
    onnx.mkdir()
    options = ExportOptions("fp32", batch=(1, 2, 2))
    export_encoder(
        SparseSamEncoder(loaded.sam.image_encoder, loaded.config, DENSE), loaded, onnx / "encoder.onnx", options
    )
    shutil.copyfile(decoder_of(loaded), onnx / "decoder.onnx")
    for name, batch in {"nano": (2, 2, 2), "vit_h": (1, 2, 2)}.items():
        folder = place / "engines" / "built" / name
        shutil.copytree(onnx, folder)
        make_folder(
            folder,
            plugins=(),
            encoder_onnx=FileRecord.of(folder / "encoder.onnx"),
            decoder_onnx=FileRecord.of(folder / "decoder.onnx"),
            checkpoint=Checkpoint(source=loaded.source, sha256=loaded.sha256),
            export=ExportOptions("fp32", batch=batch),
            sparsity=DENSE,
        )
    (place / "photos" / "more").mkdir(parents=True)
    with Image.open(SHIPPED / "coins.png") as coins:
        coins.convert("RGB").save(place / "photo.jpg", quality=95)
    with Image.open(SHIPPED / "astronaut.png") as astronaut:
        astronaut.convert("RGB").resize((300, 400)).save(place / "photos" / "more" / "tall.png")
        astronaut.convert("RGB").crop((0, 0, 500, 90)).save(place / "photos" / "wide.png")
    shutil.copyfile(place / "photo.jpg", place / "photos" / "photo.jpg")
    return place


@pytest.fixture(scope="module")
def predictor(place) -> SamPredictor:
    """segment_anything on the checkpoint, with the photo set."""
    predictor = SamPredictor(load_checkpoint(place / "sam.safetensors").sam)
    predictor.set_image(read_image(place / "photo.jpg"))
    return predictor


@pytest.fixture(scope="module")
def box_mask(predictor) -> np.ndarray:
    """(303, 384) bool, the answer to the box in the examples' command lines."""
    masks, _, _ = predictor.predict(box=np.array([305, 15, 364, 71]), multimask_output=False)
    return masks[0]


@pytest.fixture(scope="module")
def embeddings(place) -> Path:
    """What `batch_folder.py` writes, run in the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", arguments("batch_folder"))
        runpy.run_path(sys.argv[0], run_name="__main__")
    return place / "embeddings"


@pytest.fixture
def run(place, monkeypatch) -> Callable[..., None]:
    """Runs an example, or the program that it says it was before, in the folder."""

    def run(name: str, before: bool = False) -> None:
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", arguments(name))
        path = Path(sys.argv[0])
        if before:
            path = place / f"{name}_before.py"
            path.write_text(as_before(Path(sys.argv[0]).read_text(encoding="utf-8")), encoding="utf-8")
        runpy.run_path(str(path), run_name="__main__")

    return run


def arguments(name: str) -> list[str]:
    """The command line in a program's text, from the program's path on."""
    text = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8")))
    (line,) = re.findall(rf"^    python examples/{name}\.py (.+)$", text, re.MULTILINE)
    return [str(EXAMPLES / f"{name}.py"), *shlex.split(line)]


def as_before(text: str) -> str:
    """The program that an example was: each line below a ``# before:`` replaced by what stands behind that."""
    return re.sub(r"^( *)# before: ?(.*)\n.*$", r"\1\2", text, flags=re.MULTILINE)


def mask_in(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def assert_same_mask(found: np.ndarray, expected: np.ndarray) -> None:
    """Of one size, all but one pixel in ten thousand, and neither empty nor full."""
    assert found.shape == expected.shape and 0.001 < expected.mean() < 0.999
    assert (found.astype(bool) != expected).mean() <= 1e-4


def test_onnx_runtime_alone_gives_segment_anythings_mask(place, box_mask):
    command = [sys.executable, "-c", BLOCKED, ",".join(WITHOUT), *arguments("segment_photo")]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same_mask(mask_in(place / "mask.png"), box_mask)


def test_onnx_runtime_alone_takes_fifteen_statements():
    body = ast.parse((EXAMPLES / "segment_photo.py").read_text(encoding="utf-8")).body
    statements = [node for node in body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    assert len(statements) - 1 <= 15  # the first one is the text


def test_every_photo_of_a_folder(place, predictor, embeddings):
    """In pairs, the third one filled up: the build takes two images, no fewer."""
    names = ["more/tall.png", "photo.jpg", "wide.png"]
    found = {path.relative_to(embeddings).as_posix(): np.load(path) for path in embeddings.rglob("*.npy")}
    assert sorted(found) == [f"{name}.npy" for name in names]
    for name in names:
        with torch.no_grad():
            expected = predictor.model.image_encoder(preprocess(read_image(place / "photos" / name)).tensor)
        assert relative_error(torch.from_numpy(found[f"{name}.npy"]), expected) < 1e-5


@pytest.fixture
def official_registry(monkeypatch):
    """segment_anything's own models by name, of which the checkpoint in the folder is none."""
    monkeypatch.setitem(
        segment_anything.sam_model_registry, "vit_h", lambda checkpoint: load_checkpoint(Path(checkpoint)).sam
    )


def test_a_predictor_drops_in(run, place, official_registry, box_mask):
    run("drop_in_predictor")
    assert_same_mask(mask_in(place / "mask.png"), box_mask)
    run("drop_in_predictor", before=True)
    assert np.array_equal(mask_in(place / "mask.png"), box_mask)


def test_a_predictor_drops_into_automatic_masks(run, place, official_registry, monkeypatch):
    """At four points, and thresholds that a model of random weights passes: its masks fill the photo."""
    lenient = {"points_per_side": 2, "pred_iou_thresh": -100.0, "stability_score_thresh": 0.3, "box_nms_thresh": 1.0}

    def generator(sam: Sam, points_per_side: int) -> SamAutomaticMaskGenerator:
        return SamAutomaticMaskGenerator(sam, **lenient)

    monkeypatch.setattr(segment_anything, "SamAutomaticMaskGenerator", generator)
    run("drop_in_automatic")
    found = mask_in(place / "objects.png")
    run("drop_in_automatic", before=True)
    expected = mask_in(place / "objects.png")
    assert expected.max() > 1 and found.max() == expected.max()
    assert found.shape == (303, 384) and (found != expected).mean() < 1e-3


def test_a_program_for_the_official_decoder(run, place, predictor, embeddings, monkeypatch):
    """Before, with the model that segment_anything exports, run by torch; afterwards, with ours."""
    run("official_client")
    found = mask_in(place / "mask.png")
    model, asked = SamOnnxModel(predictor.model, return_single_mask=True), []

    def session(path: str, providers: list[str]) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(
            run=lambda _, inputs: [
                value.numpy() for value in model(**{k: torch.from_numpy(v) for k, v in inputs.items()})
            ]
        )

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    run("official_client", before=True)
    assert asked == ["sam_onnx_example.onnx"]
    assert_same_mask(found, mask_in(place / "mask.png"))


def test_parity_in_ci(sparsesam_export, place, monkeypatch):
    """The command in the workflow; its JUnit file has a case for each check."""
    text = (EXAMPLES / "parity_in_ci" / "parity.yml").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ +- run: sparsesam-export (verify .+)$", text, re.MULTILINE)
    monkeypatch.chdir(place)
    outcome = sparsesam_export(*shlex.split(command))
    assert outcome.code == 0, outcome.out + outcome.err
    suite = ElementTree.parse(place / "parity.xml").getroot()
    assert int(suite.get("tests")) == len(suite.findall("testcase")) > 3 and suite.get("failures") == "0"
    assert any("mask IoU to dense" in case.get("name") for case in suite)
    assert re.search(r"^ +path: (.+)$", text, re.MULTILINE)[1] == "parity.xml"


def test_the_list_names_every_example():
    listed = re.findall(
        r"^\| \[`([^`]+)`\]\(([^)]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert all(name.rstrip("/") == target.rstrip("/") for name, target in listed)
    there = {path.name for path in EXAMPLES.iterdir()} - {"README.md", "__pycache__"}
    assert {name.rstrip("/") for name, _ in listed} == there
