"""The CPU benchmark: every contender computes the encoder, nothing wrong is timed, ratios are taken turn by turn."""

from __future__ import annotations

from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.cpu_contenders import CONTENDERS, Task, serve
from benchmarks.cpu_plot import draw
from benchmarks.cpu_speed import EAGER, Bench, Row, sparsities, with_ratios
from sparsesam_deploy.export.encoder import export_encoder
from sparsesam_deploy.export.options import ExportOptions
from sparsesam_deploy.model.checkpoint import load_checkpoint
from sparsesam_deploy.model.config import DENSE, FAMILIES, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.parity.metrics import relative_l2
from tests.export.models import random_image
from tests.helpers import TINY


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint, tmp_path_factory) -> SimpleNamespace:
    """The tiny checkpoint, its encoder without functions, an image, and what segment_anything makes of it."""
    folder, image = tmp_path_factory.mktemp("contenders"), random_image()
    np.save(folder / "image.npy", image.numpy())
    loaded, onnx = load_checkpoint(tiny_checkpoint), folder / "encoder.onnx"
    stock = loaded.sam.image_encoder
    with torch.inference_mode():
        expected = stock(image).numpy()
    encoder = SparseSamEncoder(stock, TINY, DENSE)
    export_encoder(encoder, loaded, onnx, ExportOptions("fp32", inline=True))
    return SimpleNamespace(checkpoint=tiny_checkpoint, onnx=onnx, image=folder / "image.npy", expected=expected)


def answers(task: Task, image: Path, *questions: str) -> list:
    """What a contender's process sends, from a thread."""
    ours, theirs = Pipe()
    thread = Thread(target=serve, args=(task, image, theirs))
    thread.start()
    found = [ours.recv()]
    for question in questions:
        ours.send(question)
        found.append(ours.recv())
    if not isinstance(found[0], Exception):
        ours.send("end")
    thread.join()
    return found


@pytest.mark.parametrize("library", CONTENDERS)
def test_every_contender_computes_the_encoder(library, tiny):
    pytest.importorskip(library)
    file = tiny.checkpoint if library in ("torch", "transformers") else tiny.onnx
    output, milliseconds, mib, products = answers(
        Task(library, file, TINY, 1), tiny.image, "time", "memory", "products"
    )
    assert relative_l2(output, tiny.expected) < 1e-5
    assert milliseconds > 0 and mib > 100
    assert 0 < products < 10 * milliseconds


def test_a_contender_that_fails_says_so_and_ends(tiny, tmp_path):
    (problem,) = answers(Task("onnxruntime", tmp_path / "absent.onnx", TINY, 1), tiny.image)
    assert isinstance(problem, RuntimeError) and "absent.onnx" in str(problem)


def test_nothing_wrong_is_timed():
    bench = SimpleNamespace(family="nano")
    expected = np.ones(4)
    wrong = Bench.compared(bench, "x", 1.01 * expected, expected, DENSE)
    assert (wrong.status, wrong.detail) == ("failed", "relative error 1.0e-02 is above 1e-03")
    assert Bench.compared(bench, "x", ImportError("no openvino"), expected, DENSE).status == "not installed"
    right = Bench.compared(bench, "x", expected, expected, SparsityConfig(0.4, 0.4))
    assert (right.status, right.density, right.mlp_density) == ("timed", 0.4, 0.4)
    assert Bench.compared(bench, "x", expected, expected, SparsityConfig()).density is None


def row(name: str, *samples: float) -> Row:
    return Row("nano", name, "timed", "", 0.0, samples[0], samples, products_ms=4.0, peak_mib=1)


def test_ratios_are_of_one_turn():
    """The machine slows down to a third in the second turn, and the ratio of medians would be another."""
    rows = with_ratios(
        [row(EAGER, 20, 60, 20), row("density 1, OpenVINO", 10, 30, 20), row("default, OpenVINO", 5, 10, 5)]
    )
    assert [found["speed_up"] for found in rows] == [1.0, 2.0, 4.0]
    assert [found["over_density_1"] for found in rows] == [None, 1.0, 3.0]
    assert [found["of_products"] for found in rows] == [5.0, 2.5, 1.25]


def test_a_tuned_schedule_fits_every_depth():
    for family in ("nano", "vit_l", "vit_h"):
        config = FAMILIES[family]
        plans = sparsities(config.depth)["nano-tuned"].plan(config)
        assert len(plans) == config.depth


def test_the_picture_is_drawn_from_what_there_is(tmp_path):
    rows = with_ratios([row(EAGER, 20), row("default, OpenVINO", 5), Row("nano", "transformers", "not installed")])
    provenance = {"machine": {"processor": "a CPU"}, "commit": "abc"}
    draw({"provenance": provenance, "threads": 2, "rows": rows}, tmp_path / "cpu.png")
    with Image.open(tmp_path / "cpu.png") as picture:
        assert picture.format == "PNG" and len(picture.convert("RGB").getcolors(1 << 20)) > 20
