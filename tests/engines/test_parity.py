"""The default thresholds let rounding pass and nothing else: broken exports fail, and the broken block is named."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsesam_deploy.engines.metrics import relative_l2
from sparsesam_deploy.engines.parity import EncoderCheck, EncoderParity, StageError, first_failure, update_error
from sparsesam_deploy.engines.samples import shipped_samples
from sparsesam_deploy.engines.tolerance import AS_FP32, TOLERANCES
from sparsesam_deploy.errors import CheckFailed
from sparsesam_deploy.export.encoder import export_encoder
from sparsesam_deploy.model.checkpoint import load_nano
from sparsesam_deploy.model.config import PRESETS
from sparsesam_deploy.model.encoder import SparseSamEncoder

from .faults import FAULTS, ONE_GROUP_TOO_MANY, Fault, write_broken

DTYPES = ("fp32", "fp16", "bf16")


@cache
def reference(preset: str) -> tuple[SparseSamEncoder, torch.Tensor, torch.Tensor]:
    """The shipped model's encoder, the shipped face, and the embeddings of the one by the other."""
    loaded = load_nano()
    encoder = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, PRESETS[preset])
    image = next(sample for sample in shipped_samples() if sample.name == "astronaut.png").preprocessed().tensor
    with torch.inference_mode():
        return encoder, image, encoder(image)


def judge(path: Path, preset: str) -> EncoderParity:
    encoder, image, expected = reference(preset)
    return EncoderCheck(path, encoder)(image, expected)


def export(folder: Path, preset: str, dtype: str) -> Path:
    path = folder / "encoder.onnx"
    export_encoder(reference(preset)[0], load_nano(), path, dtype)
    return path


@pytest.fixture(scope="module", params=DTYPES)
def dtype(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def exported(dtype, tmp_path_factory) -> Path:
    """``encoder.onnx`` of the default preset."""
    return export(tmp_path_factory.mktemp(dtype), "default", dtype)


@pytest.fixture(scope="module")
def broken(exported) -> EncoderParity:
    """What the check says of a file with every fault in it, each in a block of its own."""
    return judge(write_broken(exported.with_name("broken.onnx"), exported, FAULTS), "default")


# --- real exports ------------------------------------------------------------------------------------------------


def assert_accepted(parity: EncoderParity, dtype: str, embedding: float) -> None:
    assert first_failure(parity.stages, dtype) is None
    assert parity.relative_l2 <= embedding
    assert parity.cosine >= TOLERANCES[dtype].cosine
    assert np.isfinite(parity.max_abs)  # has no limit: a rerouted token is off by more than 1
    assert [stage.name for stage in parity.stages] == ["embedding", *(f"block {i}" for i in range(12)), "neck"]


def test_the_default_preset_is_accepted(exported, dtype):
    assert_accepted(judge(exported, "default"), dtype, TOLERANCES[dtype].embedding)


def test_the_paper_preset_is_accepted(dtype, tmp_path):
    assert_accepted(judge(export(tmp_path, "paper", dtype), "paper"), dtype, TOLERANCES[dtype].embedding_ranked)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_refused_and_its_block_named(broken, dtype, fault: Fault):
    others = {f"block {other.block}" for other in FAULTS if other is not fault}
    failure = first_failure([stage for stage in broken.stages if stage.name not in others], dtype)
    assert failure is not None
    assert failure.startswith(f"block {fault.block} computes something else: ")


def test_healthy_blocks_between_broken_ones_are_accepted(broken, dtype):
    accepted = [stage.name for stage in broken.stages if first_failure([stage], dtype) is None]
    assert accepted == ["embedding", "block 6", "block 9", "block 10", "neck"]


def test_a_wrong_number_of_groups_is_refused_before_anything_runs(exported, tmp_path):
    path = write_broken(tmp_path / "encoder.onnx", exported, [ONE_GROUP_TOO_MANY])
    with pytest.raises(CheckFailed, match="groups in full in its routed blocks"):
        EncoderCheck(path, reference("default")[0])


def test_an_edit_that_is_not_signed_is_refused_by_its_digest(exported, tmp_path):
    path = write_broken(tmp_path / "encoder.onnx", exported, FAULTS[-1:], signed=False)
    with pytest.raises(CheckFailed, match="was edited after its export"):
        EncoderCheck(path, reference("default")[0])


# --- tokens that were routed differently -------------------------------------------------------------------------

TOKENS, CHANNELS = 40, 8


def block_update(errors: dict[int, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output, expected output and input of a block; ``errors`` by token, in units of the mean update."""
    generator = np.random.default_rng(0)
    before = generator.normal(size=(1, TOKENS, CHANNELS)).astype(np.float32)
    update = generator.normal(size=before.shape)
    expected = (before + update * np.sqrt(CHANNELS) / np.linalg.norm(update, axis=2, keepdims=True)).astype(np.float32)
    actual = expected.copy()
    for token, error in errors.items():
        actual[0, token] += error
    return actual, expected, before


@pytest.mark.parametrize(
    ("errors", "slack", "left_out", "still_wrong"),
    [
        ({}, 4, 0, ()),
        ({7: 1.0}, 0, 0, (7,)),
        ({7: 1.0, 9: 2.0}, 4, 2, ()),
        ({7: 0.15}, 4, 1, ()),
        ({7: 0.05}, 4, 0, (7,)),
        ({7: 0.05, 9: 2.0}, 4, 1, (7,)),
        ({3: 0.5, 4: 3.0, 5: 2.0}, 2, 2, (3,)),
    ],
    ids=["none", "no-slack", "within-slack", "just-rerouted", "too-small-to-be-rerouting", "both", "worst-first"],
)
def test_only_rerouted_tokens_are_left_out(errors, slack, left_out, still_wrong):
    actual, expected, before = block_update(errors)
    error, count = update_error(actual, expected, before, slack)
    assert count == left_out
    removed = [token for token in errors if token not in still_wrong]
    kept = [token for token in range(TOKENS) if token not in removed]
    assert error == pytest.approx(relative_l2(actual[:, kept], expected[:, kept], before[:, kept]))
    assert (error > 0) == bool(still_wrong)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_slack_never_hides_what_is_not_finite(value):
    actual, expected, before = block_update({})
    actual[0, 7, 2] = value
    assert update_error(actual, expected, before, slack=4) == (np.inf, 0)


# --- the sentence ------------------------------------------------------------------------------------------------


def stages(**errors: tuple[float, float]) -> list[StageError]:
    """Three good stages, some replaced by (graph, precision) errors."""
    return [StageError(name, *errors.get(name, (1e-7, 1e-7)), 0) for name in ("embedding", "first", "second")]


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ({}, None),
        ({"second": (2e-5, 0)}, "second computes something else"),
        ({"first": (2e-5, 0), "second": (1, 1)}, "first computes something else"),
        ({"first": (0, 0.5), "second": (1, 1)}, "first loses precision"),
        ({"first": (1, 1)}, "first computes something else"),
        ({"first": (np.nan, 0)}, "first computes something else"),
        ({"first": (0, np.nan)}, "first loses precision"),
        ({"embedding": (np.inf, 0), "first": (1, 1)}, "embedding computes something else"),
    ],
    ids=["fine", "second", "both", "precision-first", "graph-before-precision", "nan-graph", "nan-precision", "inf"],
)
def test_the_first_stage_over_tolerance_is_named(errors, words, dtype):
    failure = first_failure(stages(**errors), dtype)
    assert failure is None if words is None else failure.startswith(words)


def test_at_the_limit_is_within(dtype):
    limit = TOLERANCES[dtype].block
    assert first_failure(stages(first=(AS_FP32.block, limit)), dtype) is None
    assert f"in {dtype}" in first_failure(stages(first=(AS_FP32.block, limit * 1.001)), dtype)
