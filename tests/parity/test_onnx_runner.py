"""What ONNX Runtime refuses becomes one sentence, and nothing on stdout, where reports go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparsesam_deploy.errors import CheckFailed, EnvironmentProblem
from sparsesam_deploy.export.metadata import load_exported
from sparsesam_deploy.model.checkpoint import load_checkpoint
from sparsesam_deploy.parity import onnx_runner
from sparsesam_deploy.parity.onnx_runner import OnnxRunner


@pytest.fixture(scope="module")
def decoder(decoder_of, tiny_checkpoint) -> Path:
    """The smallest file that is exported."""
    return decoder_of(load_checkpoint(tiny_checkpoint))


def test_an_inner_value_that_no_node_makes(decoder):
    """As after a change of what a density means: the file says the same, but was made of other nodes."""
    with pytest.raises(
        CheckFailed, match=r"decoder.onnx has no row_of_token_block_00, .+; export the checkpoint again"
    ):
        OnnxRunner(decoder, ["low_res_masks", "row_of_token_block_00"])


def test_a_graph_that_is_refused(decoder, capfd, monkeypatch):
    """An operator that no runtime knows."""
    model, metadata = load_exported(decoder)
    model.graph.node[0].op_type = "NoSuchOperator"
    monkeypatch.setattr(onnx_runner, "load_exported", lambda path: (model, metadata))
    with pytest.raises(
        CheckFailed, match=r"ONNX Runtime cannot run \S+decoder.onnx \(.+\); export the checkpoint again"
    ):
        OnnxRunner(decoder)
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
