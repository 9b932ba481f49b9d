"""The verifier, from files to report, on a network of four blocks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sparsesam_deploy.errors import CheckFailed, InvalidInput
from sparsesam_deploy.export.encoder import encoder_metadata
from sparsesam_deploy.export.metadata import sparsity_of
from sparsesam_deploy.export.options import ExportOptions
from sparsesam_deploy.model.config import PRESETS, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.parity import engine_runner, verify
from sparsesam_deploy.parity.samples import user_samples
from sparsesam_deploy.parity.verify import Verifier, reference_outputs

from ..export.models import export, load_tiny
from ..helpers import TINY
from .faults import FAULTS, OF_ANOTHER_CHECKPOINT, write_broken

pytestmark = pytest.mark.usefixtures("four_points")

CHECKPOINT = load_tiny()
MANIFEST = SimpleNamespace(compute_capabilities=("SM80", "SM89"), engine="the encoder", decoder_engine="the decoder")
SPARSITIES = {
    **PRESETS,
    "per-block": SparsityConfig((1.0, 0.5, 0.5, 0.25), 0.4, 1.0, "interleaved", "skip-sobel"),
    "sparse-windows": SparsityConfig(0.5, (0.4, 0.4, 0.5, 1.0), 0.5, "lattice", "share-quadtree"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, decoder_of):
    """``encoder.onnx`` and ``decoder.onnx`` of the default preset, and some unusual images."""
    path = tmp_path_factory.mktemp("tiny")
    export(path, PRESETS["default"])
    shutil.copyfile(decoder_of(CHECKPOINT), path / "decoder.onnx")
    noise = np.random.default_rng(0).integers(0, 256, (45, 60, 4), np.uint8)
    Image.fromarray(noise[:1, :1, :3]).save(path / "pixel.png")
    Image.fromarray(noise[:, :, 0]).save(path / "grey.png")
    Image.fromarray(noise).save(path / "rgba.png")
    return path


def verifier(folder, encoder: str = "encoder.onnx", **options) -> Verifier:
    return Verifier(CHECKPOINT, folder / encoder, folder / "decoder.onnx", **options)


def judged(checker: Verifier, *paths):
    return checker(user_samples(paths), lambda share, what: None)


def test_unusual_images_pass_from_end_to_end(folder):
    told = []
    samples = user_samples([folder / "grey.png", folder / "rgba.png"])  # pixel.png is judged below, with an engine
    report = verifier(folder)(samples, lambda share, what: told.append((share, what)))
    assert report.failures == []
    assert [image.image for image in report.images] == ["grey.png", "rgba.png"]
    assert [words for _, words in told] == [
        "embedding",
        *(f"block {i}" for i in range(4)),
        "neck",
        "grey.png",
        "rgba.png",
    ]
    assert told[0][0] == 0 and told == sorted(told, key=lambda step: step[0]) and told[-1][0] < 1
    assert {image.prompts for image in report.images} == {4}
    assert (report.dtype, report.engine) == ("fp32", "not built")


def test_how_many_images_go_together_changes_nothing(folder, monkeypatch):
    paths = [folder / "grey.png", folder / "rgba.png"]
    together = judged(verifier(folder), *paths)
    monkeypatch.setattr(verify, "IMAGES_AT_ONCE", 1)
    assert judged(verifier(folder), *paths) == together


def test_a_dropped_stripe_fails_the_report_by_its_block(folder):
    (fault,) = (replace(fault, block=1) for fault in FAULTS if fault.name == "stripe-dropped")
    write_broken(folder / "broken.onnx", folder / "encoder.onnx", [fault])
    report = judged(verifier(folder, "broken.onnx"), folder / "grey.png")
    assert not report.passed
    assert report.failures[0].startswith("grey.png blocks: block 1 computes something else")
    assert any(failure.startswith("grey.png embedding") for failure in report.failures)


class RankWorstFirst:
    """The first ranking of the graph upside down."""

    block = 0

    def damage(self, model, block):
        top_k = next(node for node in model.graph.node if node.op_type == "TopK")
        (largest,) = (attribute for attribute in top_k.attribute if attribute.name == "largest")
        largest.i = 0


def test_a_wrong_ranking_fails_the_report_by_its_block(tmp_path, folder):
    """Followed by the reference, a wrong ranking shows in no other figure."""
    write_broken(folder / "misranked.onnx", export(tmp_path, PRESETS["paper"]).path, [RankWorstFirst()])
    report = judged(verifier(folder, "misranked.onnx"), folder / "grey.png")
    assert report.failures[0].startswith("grey.png blocks: block 0 ranking computes something else")
    (wrong,) = (stage.name for stage in report.images[0].stages if stage.graph > 1e-5)
    assert wrong == "block 0 ranking"


# --- files that do not belong together ---------------------------------------------------------------------------


def test_another_checkpoint_is_refused(folder):
    other = replace(CHECKPOINT, sha256="b" * 64, source="other.pth")
    message = (
        r"encoder\.onnx was exported from tiny\.safetensors, not from other\.pth; give the checkpoint it came from"
    )
    with pytest.raises(CheckFailed, match=message):
        Verifier(other, folder / "encoder.onnx", folder / "decoder.onnx")


def test_a_decoder_of_another_checkpoint_is_refused(folder, tmp_path):
    write_broken(tmp_path / "decoder.onnx", folder / "decoder.onnx", [OF_ANOTHER_CHECKPOINT])
    with pytest.raises(CheckFailed, match=r"decoder\.onnx was exported from other\.pth, not from tiny\.safetensors"):
        Verifier(CHECKPOINT, folder / "encoder.onnx", tmp_path / "decoder.onnx")


def test_a_decoder_under_the_encoders_name_is_refused(folder):
    with pytest.raises(InvalidInput, match=r"decoder\.onnx is the decoder of a model; name its encoder\.onnx"):
        Verifier(CHECKPOINT, folder / "decoder.onnx", folder / "decoder.onnx")


def test_an_edited_decoder_is_refused(folder, tmp_path):
    write_broken(tmp_path / "decoder.onnx", folder / "decoder.onnx", [FlipNegation()], signed=False)
    with pytest.raises(CheckFailed, match=r"decoder\.onnx was edited after its export"):
        Verifier(CHECKPOINT, folder / "encoder.onnx", tmp_path / "decoder.onnx")


class FlipNegation:
    """Any edit at all."""

    block = 0

    def damage(self, model, block):
        model.graph.node[-1].name += "_edited"


@pytest.mark.parametrize("sparsity", SPARSITIES.values(), ids=SPARSITIES)
def test_the_file_says_how_sparse_its_reference_is(sparsity):
    encoder = SparseSamEncoder(CHECKPOINT.sam.image_encoder, TINY, sparsity)
    assert sparsity_of(encoder_metadata(encoder, CHECKPOINT, ExportOptions("fp32"))) == sparsity


# --- engines -----------------------------------------------------------------------------------------------------


def test_without_a_device_the_report_says_so(folder, monkeypatch):
    monkeypatch.setattr(engine_runner, "cuda_devices", tuple)
    checker = verifier(folder, engine_folder=folder, manifest=MANIFEST)
    assert checker.engine is None
    assert checker.engine_status == "not run: no device: this machine has no CUDA GPU, the engine is for SM80, SM89"


ENGINE_CHECKS = [
    "engine embedding error, median position",
    "engine embedding cosine",
    "engine mask IoU",
    "engine boundary IoU",
]


def nowhere(embeddings):
    return np.full_like(embeddings, np.nan)


@pytest.mark.parametrize(
    ("spoil", "good_encoder", "failing"),
    [
        (np.copy, True, []),
        (nowhere, False, ENGINE_CHECKS),
        (nowhere, True, ENGINE_CHECKS[2:]),
    ],
    ids=["good", "nan", "nan-from-the-decoder"],
)
def test_what_engines_answer_is_judged(folder, monkeypatch, spoil, good_encoder, failing):
    class Pretence:
        kernels = "pretence on NVIDIA Pretence"

        def __init__(self, where, manifest, record):
            assert (where, manifest) == (folder, MANIFEST)
            self.record = record

        def run(self, inputs):
            if self.record == MANIFEST.decoder_engine:
                return {name: spoil(value) for name, value in checker.decoder.run(inputs).items()}
            outputs = reference_outputs(checker.sparse, torch.from_numpy(inputs["image"]))
            return outputs.named if good_encoder else outputs.map(spoil).named

    monkeypatch.setattr(verify, "why_not", lambda manifest: None)
    monkeypatch.setattr(verify, "EngineRunner", Pretence)
    checker = verifier(folder, engine_folder=folder, manifest=MANIFEST)
    report = judged(checker, folder / "pixel.png")
    assert report.engine == "run: pretence on NVIDIA Pretence"
    failed = [check.name.removeprefix("pixel.png ") for check in report.checks if check.failure]
    assert [name for name in failed if name in failing] == failing
    assert bool(failed) == bool(failing)
    assert all(name.startswith("engine ") for name in failed)
