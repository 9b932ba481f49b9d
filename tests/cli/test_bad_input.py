"""Every kind of bad input gives one clear sentence and the right exit code, and nothing under a final name."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save_file

from sparsesam_deploy.artifacts import LOCK, PARTIAL, output_folder
from sparsesam_deploy.parity.samples import SHIPPED
from tests.cli.readme import TOOL
from tests.cli.test_commands import visible

pytestmark = pytest.mark.usefixtures("four_points")


def one_line(text: str) -> str:
    """The error of a refused call: exactly one line that starts with 'error:', or click's own."""
    lines = [line for line in text.strip().splitlines() if not line.startswith(("done ", "Usage:", "Try "))]
    joined = " ".join(line.strip() for line in lines if line.strip())
    assert joined.lower().startswith("error: ") and "Traceback" not in text
    return joined


class Hostile:
    """Runs a command when a careless program unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def bad_checkpoint(kind: str, folder: Path, good: Path) -> Path:
    path = folder / f"{kind}.pth"
    if kind == "truncated":
        path.write_bytes(good.read_bytes()[:100_000])
    elif kind == "hostile":
        path.write_bytes(pickle.dumps({"model": Hostile(folder / "owned")}))
    elif kind == "other-family":
        torch.save({"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3), "fc.weight": torch.zeros(10, 64)}, path)
    elif kind == "nan":
        tensors = load_file(good)
        tensors["image_encoder.blocks.1.mlp.lin1.weight"][3, 5] = float("nan")
        save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("missing", "does not exist"),
        ("truncated", "truncated"),
        ("hostile", "hostile"),
        ("other-family", "ResNet"),
        ("nan", "image_encoder.blocks.1.mlp.lin1.weight"),
    ],
)
def test_bad_checkpoint(kind, sentence, tiny_checkpoint, tmp_path, sparsesam_export):
    path = bad_checkpoint(kind, tmp_path, tiny_checkpoint)
    result = sparsesam_export("onnx", "--checkpoint", path, "--output", tmp_path / "out")
    assert result.code == 2 and sentence in one_line(result.err)
    assert visible(tmp_path / "out") == set() and not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(("--density", "0"), "0 is outside (0, 1]", id="density-0"),
        pytest.param(("--density", "1.5"), "1.5 is outside (0, 1]", id="density-1.5"),
        pytest.param(("--density", "abc"), "'abc' is not a number in (0, 1]", id="density-abc"),
        pytest.param(("--density", "nan"), "nan is outside (0, 1]", id="density-nan"),
        pytest.param(("--attention-density", "0.001"), "0.001 leaves no stripe tile; use at least", id="no-tile"),
        pytest.param(("--preset", "paper", "--density", "0.01"), "leaves no stripe tile", id="no-tile-ranked"),
        pytest.param(("--density", "0.2"), "mlp_density 0.2 is below 0.25", id="share-below-quarter"),
        pytest.param(("--mlp-density", "0.4,0.5"), "lists 2 values, but the encoder has 4 blocks", id="per-block"),
        pytest.param(("--order", "spiral"), "'spiral' is not one of", id="order"),
        pytest.param(("--dtype", "int8"), "'int8' is not one of", id="dtype"),
        pytest.param(("--batch", "4,2,8"), "is not 1 <= min <= opt <= max", id="batch-order"),
        pytest.param(("--batch", "many"), "neither N nor MIN,OPT,MAX", id="batch-word"),
        pytest.param(("--model", "nano"), "give either --model nano or --checkpoint FILE", id="two-models"),
        pytest.param(("--recipe", "no-such-recipe"), "shipped ones: ", id="recipe-missing"),
    ],
)
def test_bad_option(arguments, sentence, tiny_checkpoint, tmp_path, sparsesam_export):
    result = sparsesam_export("onnx", "--checkpoint", tiny_checkpoint, *arguments, "--output", tmp_path / "out")
    assert result.code == 2 and sentence in one_line(result.err)
    assert visible(tmp_path / "out") == set()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("density = ", "is not TOML"),
        ('model = "nano"\nsparsity = 0.4', "sparsity: no such setting; known ones are model, checkpoint, preset,"),
        ('model = "nano"\ndensity = "half"', "density: Input should be a valid number, not 'half'."),
        ('model = "nano"\ndensity = true', "density: Input should be a valid number, not True."),
        ('dtype = "fp16"', "give either --model nano or --checkpoint FILE"),
    ],
    ids=["syntax", "unknown-key", "wrong-type", "boolean", "no-model"],
)
def test_bad_recipe(text, sentence, tmp_path, sparsesam_export):
    (tmp_path / "recipe.toml").write_text(text)
    result = sparsesam_export("onnx", "--recipe", tmp_path / "recipe.toml", "--output", tmp_path / "out")
    assert result.code == 2 and sentence in one_line(result.err)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ((), 2, "no builder was chosen; give --builder"),
        (("--builder", "tensorrt"), 3, "needs; pip install 'sparsesam-deploy[tensorrt]'"),
        (("--builder", "tensorrt-rtx", "--timing-cache", "c"), 2, "tensorrt-rtx has no --timing-cache"),
    ],
    ids=["none", "absent", "unsupported-option"],
)
def test_bad_builder(arguments, code, sentence, tiny_checkpoint, tmp_path, sparsesam_export, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = sparsesam_export("build", "--checkpoint", tiny_checkpoint, *arguments, "--output", tmp_path / "out")
    assert result.code == code and sentence in one_line(result.err)
    assert visible(tmp_path / "out") == set()


def test_unknown_gpu(tiny_export, tmp_path, sparsesam_export):
    """Which the builder refuses, once there is a graph to build."""
    arguments = ("--builder", "tensorrt-rtx", "--compute-capabilities", "SM1")
    result = sparsesam_export("engine", tiny_export / "encoder.onnx", *arguments, "--output", tmp_path / "out")
    assert result.code == 2 and "SM1" in one_line(result.err)
    assert visible(tmp_path / "out") == set()


def test_json_error_is_json(tmp_path, sparsesam_export):
    result = sparsesam_export("onnx", "--checkpoint", tmp_path / "none.pth", "--output", tmp_path / "out", "--json")
    assert json.loads(result.out)["exit_code"] == result.code == 2


@pytest.mark.parametrize(("kind", "sentence"), [("text", "not an image"), ("huge", "too large"), ("empty", "no image")])
def test_bad_image(kind, sentence, tiny_checkpoint, tmp_path, sparsesam_export):
    image = tmp_path / "image.png"
    if kind == "text":
        image.write_text("not an image")
    elif kind == "huge":
        Image.new("1", (20000, 20000)).save(image)
    else:
        image = tmp_path / "folder"
        image.mkdir()
    arguments = ("--checkpoint", tiny_checkpoint, "--builder", "tensorrt-rtx", "--images", image)
    result = sparsesam_export("build", *arguments, "--output", tmp_path / "out")
    assert result.code == 2 and sentence in one_line(result.err)
    assert visible(tmp_path / "out") == set()


def test_an_odd_image_is_judged(tiny_checkpoint, tiny_export, tmp_path, sparsesam_export):
    """A grey image of 16 bits, rotated by its EXIF, goes through; ``test_verify.py`` has 1x1, grey and RGBA."""
    photo = Image.open(SHIPPED / "astronaut.png").resize((200, 100)).convert("L")
    folder = tmp_path / "odd"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.asarray(photo, np.uint16) * 257).save(folder / "deep.png", exif=exif)
    result = sparsesam_export("verify", tiny_export, "--checkpoint", tiny_checkpoint, "--images", folder, "--json")
    judged = [image["image"] for image in json.loads(result.out)["images"]]
    assert result.code == 0 and judged == ["deep.png"]


def test_a_usage_error_is_json_too(sparsesam_export):
    result = sparsesam_export("onnx", "--model", "nano", "--density", "0", "--output", "out", "--json")
    refusal = json.loads(result.out)
    assert result.code == refusal["exit_code"] == 2 and "outside (0, 1]" in refusal["error"]


def test_square_brackets_in_a_path_are_no_markup(tmp_path, sparsesam_export):
    result = sparsesam_export("inspect", tmp_path / "x[" / "b]y" / "encoder.onnx")
    assert result.code == 2 and "x[/b]y" in one_line(result.err)


def test_unwritable_output(tiny_checkpoint, tmp_path, sparsesam_export):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file" / "out", Path("/proc/sparsesam"), tmp_path / ("long" * 100)):
        result = sparsesam_export("onnx", "--checkpoint", tiny_checkpoint, "--output", output)
        assert result.code == 2 and f"cannot write to {output}" in one_line(result.err)


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 2 MiB: less than one exported file."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_disk_full(tiny_checkpoint, small_disk, sparsesam_export):
    result = sparsesam_export("onnx", "--checkpoint", tiny_checkpoint, "--output", small_disk / "out")
    assert result.code == 3 and "disk full while writing to" in one_line(result.err)
    assert visible(small_disk / "out") == set() and not (small_disk / "out" / PARTIAL).exists()


def test_second_build_into_the_same_folder_is_refused(tiny_checkpoint, tmp_path, sparsesam_export):
    with FileLock(tmp_path / LOCK):
        result = sparsesam_export("onnx", "--checkpoint", tiny_checkpoint, "--output", tmp_path)
    assert result.code == 2 and "another sparsesam-export is writing to" in one_line(result.err)


def start_build(checkpoint: Path, output: Path) -> subprocess.Popen:
    """A build that has begun to write: its temporary folder holds a file."""
    arguments = ["--checkpoint", checkpoint, "--builder", "tensorrt-rtx", "--images", SHIPPED / "astronaut.png"]
    process = subprocess.Popen([TOOL, "build", *arguments, "--output", output], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((output / PARTIAL).glob("*")):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.02)
    return process


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_in_mid_build_leaves_the_previous_build(tiny_checkpoint, tmp_path):
    (tmp_path / "encoder.engine").write_text("the previous build")
    process = start_build(tiny_checkpoint, tmp_path)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err
    assert visible(tmp_path) == {"encoder.engine"} and not (tmp_path / PARTIAL).exists()
    assert (tmp_path / "encoder.engine").read_text() == "the previous build"


def test_kill_9_in_mid_build_leaves_no_half_build(tiny_checkpoint, tmp_path):
    process = start_build(tiny_checkpoint, tmp_path)
    process.kill()
    process.communicate(timeout=120)
    assert visible(tmp_path) == set() and (tmp_path / PARTIAL).exists()
    with output_folder(tmp_path) as folder:  # of the next command
        (folder / "encoder.onnx").touch()
    assert visible(tmp_path) == {"encoder.onnx"} and not (tmp_path / PARTIAL).exists()


@pytest.mark.parametrize(
    "words", ["CUDA out of memory. Tried to allocate 2.00 GiB", "can't allocate memory: you tried"]
)
def test_out_of_memory_is_one_sentence(words, sparsesam_export, monkeypatch):
    def fail():
        raise RuntimeError(words)

    monkeypatch.setattr("sparsesam_deploy.doctor.examine", fail)
    result = sparsesam_export("doctor")
    assert result.code == 3 and one_line(result.err).startswith("error: out of memory; free memory")


def test_a_floor_that_is_no_number_is_refused(sparsesam_export, tmp_path):
    result = sparsesam_export("verify", tmp_path, "--model", "nano", "--min-dense-iou", "nan")
    assert result.code == 2 and "nan is no number to compare with" in one_line(result.err)
