"""What ONNX Runtime refuses becomes one sentence, and nothing on stdout, where reports go."""

from __future__ import annotations

import numpy as np
import pytest

from sparsesam_deploy.engines import onnx_runner
from sparsesam_deploy.engines.onnx_runner import OnnxRunner
from sparsesam_deploy.errors import CheckFailed, EnvironmentProblem
from sparsesam_deploy.export.decoder import export_decoder
from sparsesam_deploy.model.checkpoint import load_checkpoint
from tests.helpers import TINY, save_random_checkpoint


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """The smallest file that is exported."""
    folder = tmp_path_factory.mktemp("decoder")
    save_random_checkpoint(folder / "weights.pth", TINY)
    export_decoder(load_checkpoint(folder / "weights.pth"), folder / "decoder.onnx")
    return folder / "decoder.onnx"


def test_a_graph_that_is_refused(decoder, capfd):
    """An inner value that no node makes."""
    with pytest.raises(
        CheckFailed, match=r"ONNX Runtime cannot run \S+decoder.onnx \(.+\); export the checkpoint again"
    ):
        OnnxRunner(decoder, ["no such value"])
    assert capfd.readouterr().out == ""


def test_a_run_that_fails(decoder):
    with pytest.raises(CheckFailed, match=r"cannot run \S+decoder.onnx \(.+\); export the checkpoint again") as caught:
        OnnxRunner(decoder).run({"image_embeddings": np.zeros((1, 2), np.float32)})
    assert "\n" not in str(caught.value)


def test_no_room_for_weights_that_go_by_disk(decoder, monkeypatch):
    def save(*arguments, **choices):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_runner, "EXTERNAL_DATA_ABOVE", 0)
    monkeypatch.setattr(onnx_runner.onnx, "save", save)
    with pytest.raises(EnvironmentProblem, match=r"decoder.onnx to \S+ \(No space left on device\); free space there"):
        OnnxRunner(decoder)
