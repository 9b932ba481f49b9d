"""The default thresholds let rounding pass and nothing else: broken exports fail, and the broken block is named."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparsesam_deploy.errors import CheckFailed
from sparsesam_deploy.export.encoder import export_encoder
from sparsesam_deploy.export.options import ExportOptions
from sparsesam_deploy.model.attention import ImageState
from sparsesam_deploy.model.checkpoint import load_nano
from sparsesam_deploy.model.config import SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.ops.geometry import GROUP
from sparsesam_deploy.ops.routing import Counts
from sparsesam_deploy.parity.blocks import StageError, first_failure
from sparsesam_deploy.parity.decisions import ranking_error, routing_error
from sparsesam_deploy.parity.encoder_check import EncoderCheck, EncoderParity
from sparsesam_deploy.parity.metrics import relative_l2
from sparsesam_deploy.parity.samples import shipped_samples
from sparsesam_deploy.parity.tolerance import AS_FP32, TOLERANCES

from .faults import FAULTS, Fault, write_broken

DTYPES = ("fp32", "fp16", "bf16")
ROUTED = (3, 4, 6, 7, 9, 10)
SPARSITY = SparsityConfig(0.25, tuple(0.4 if block in ROUTED else 1.0 for block in range(12)))
"""Half of the blocks route their MLP, so that a fault in another's attention is not seen first by what that decides."""


@cache
def reference() -> tuple[SparseSamEncoder, torch.Tensor, torch.Tensor]:
    """The shipped model's encoder, the shipped face, and the embeddings of the one by the other."""
    loaded = load_nano()
    encoder = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, SPARSITY)
    image = next(sample for sample in shipped_samples() if sample.name == "astronaut.png").preprocessed().tensor
    with torch.inference_mode():
        return encoder, image, encoder(image)


def judge(path: Path) -> EncoderParity:
    encoder, image, _ = reference()
    (parity,) = EncoderCheck(path, encoder)([image], lambda share, words: None)
    return parity


@pytest.fixture(scope="module", params=DTYPES)
def dtype(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def exported(dtype, tmp_path_factory) -> Path:
    """``encoder.onnx`` that shares rows."""
    path = tmp_path_factory.mktemp(dtype) / "encoder.onnx"
    export_encoder(reference()[0], load_nano(), path, ExportOptions(dtype))
    return path


@pytest.fixture(scope="module")
def broken(exported) -> EncoderParity:
    """What the check says of a file with every fault in it, each in a block of its own."""
    return judge(write_broken(exported.with_name("broken.onnx"), exported, FAULTS))


# --- faults: healthy exports are judged in test_encoder_check.py, in tests/export and by the build of tests/cli -----


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_refused_and_its_block_named(broken, dtype, fault: Fault):
    others = {other.stage for other in FAULTS if other is not fault}
    failure = first_failure([stage for stage in broken.stages if stage.name not in others], dtype)
    assert failure is not None
    assert failure.startswith(f"{fault.stage} computes something else: ")


def test_healthy_blocks_between_broken_ones_are_accepted(broken, dtype):
    accepted = [stage.name for stage in broken.stages if first_failure([stage], dtype) is None]
    decided = {f"block {i} routing" for i in (3, 6, 7, 9, 10)}
    assert {*accepted} == {"embedding", "block 4", "block 6", "block 9", "block 10", "neck"} | decided


def test_an_edit_that_is_not_signed_is_refused_by_its_digest(exported, tmp_path):
    path = write_broken(tmp_path / "encoder.onnx", exported, FAULTS[-1:], signed=False)
    with pytest.raises(CheckFailed, match="was edited after its export"):
        EncoderCheck(path, reference()[0])


# --- decisions ---------------------------------------------------------------------------------------------------

SCORES = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 0.0])


def by_group(*rows: int | tuple[int, ...]) -> torch.Tensor:
    """Rows of four tokens each: the first of four in a sequence, one for all, or each given."""
    spread = [row if isinstance(row, tuple) else (row,) * GROUP for row in rows]
    return torch.tensor(spread, dtype=torch.int32).flatten()


def own(first: int) -> tuple[int, ...]:
    return tuple(range(first, first + GROUP))


SHARE = SimpleNamespace(share=True, num_own_rows=8, num_rows=12, counts=Counts())
SKIP = SimpleNamespace(share=False, num_own_rows=8, num_rows=8, counts=Counts())
ROUTINGS = {
    "best": (SHARE, by_group(own(0), 8, own(4), 9, 10, 11), 0.0),
    "any-order-of-rows": (SHARE, by_group(own(4), 11, own(0), 10, 9, 8), 0.0),
    "second-best": (SHARE, by_group(own(0), 8, 9, 10, own(4), 11), 1 / math.hypot(5, 4)),
    "worst": (SHARE, by_group(8, own(0), 9, 10, 11, own(4)), math.hypot(5 - 1, 4 - 0) / math.hypot(5, 4)),
    "skip": (SKIP, by_group(own(0), 8, own(4), 8, 8, 8), 0.0),
    "two-groups-share-a-row": (SHARE, by_group(own(0), 8, own(4), 9, 10, 10), math.inf),
    "a-row-for-two-halves": (SHARE, by_group(own(0), (8, 8, 9, 9), own(4), (9, 9, 8, 8), 10, 11), math.inf),
    "a-row-given-twice": (SHARE, by_group(own(0), 8, (4, 5, 6, 6), 9, 10, 11), math.inf),
    "a-row-that-is-not-there": (SHARE, by_group(own(0), 8, own(4), 9, 10, 12), math.inf),
    "a-negative-row": (SHARE, by_group(own(0), 8, own(4), 9, 10, -1), math.inf),
    "one-kept-too-few": (SKIP, by_group(own(0), 8, (4, 5, 6, 8), 8, 8, 8), math.inf),
}


@pytest.mark.parametrize(("mlp", "row_of_token", "error"), ROUTINGS.values(), ids=ROUTINGS)
def test_a_routing_is_in_error_by_the_score_it_gives_away(mlp, row_of_token, error):
    scores = SCORES.repeat_interleave(GROUP)
    assert routing_error(scores, row_of_token, mlp) == pytest.approx(error, rel=1e-6)


def test_near_ties_cost_what_they_differ_by():
    scores = torch.tensor([5.0, 3.0, 3.0001]).repeat_interleave(GROUP)
    mlp = SimpleNamespace(share=True, num_own_rows=8, num_rows=9, counts=Counts())
    assert routing_error(scores, by_group(own(0), own(4), 8), mlp) == pytest.approx(1e-4 / math.hypot(5, 3), rel=1e-2)


BEST = [0, 2, 4, 3, 1, 5]


@pytest.mark.parametrize(
    ("rankings", "error"),
    [
        ([BEST] * 3, 0.0),
        ([BEST, [0, 2, 3, 4, 1, 5], BEST], math.sqrt(2 / 17.5)),
        ([BEST, BEST, BEST[::-1]], 2.0),
        ([BEST, BEST, [0, 2, 4, 3, 1, 1]], math.inf),
    ],
    ids=["best", "swapped", "reversed", "no-permutation"],
)
@pytest.mark.parametrize("variation", [0.5, 1e-3])
def test_a_ranking_is_in_error_by_the_scores_out_of_order(rankings, error, variation):
    """Both statistics equally spaced, so that scores are too: 2.5, 1.5 ... -2.5 deviations' worth, of norm 17.5."""
    spaced = (SCORES - 2.5) / SCORES.std()
    spread, similarity = 3 * (1 + variation * spaced), 0.2 - variation * spaced
    ranking = torch.tensor([rankings], dtype=torch.int32)
    found = ranking_error(spread.expand(1, 3, 6), similarity.expand(1, 3, 6), ranking)
    assert found == pytest.approx(error * variation, rel=1e-2)


def test_an_empty_window_has_no_wrong_ranking():
    noise = 1e-9 * torch.randn(2, 1, 1, 6, generator=torch.Generator().manual_seed(0))
    ranking = torch.tensor([[BEST]], dtype=torch.int32)
    assert ranking_error(0.3 + noise[0], 0.99 + noise[1], ranking) < 1e-7
    assert ranking_error(torch.zeros(1, 1, 6), torch.ones(1, 1, 6), ranking) == 0


def test_nothing_is_ranked_for_nobody():
    """Group ranks decide which MLP rows are left out: with all of them computed there is nothing to rank."""
    loaded = load_nano()
    dense = SparseSamEncoder(
        loaded.sam.image_encoder, loaded.config, SparsityConfig(0.4, 1.0, 1.0, routing="skip-group-rank")
    )
    assert dense.decision_names == ()


def test_the_reference_follows_the_decisions_of_the_graph():
    """Were every near-tie decided the other way, the end would differ, and not so once the reference does the same."""
    encoder, image, expected = reference()
    state = ImageState()
    with torch.inference_mode():
        *_, last = encoder.streams(image, state)
        assert relative_l2(encoder.finish(last).numpy(), expected.numpy()) == 0
        name = encoder.decision_names[-1]
        state.decisions[name] = state.decisions[name].unflatten(1, (-1, GROUP)).flip(1).flatten(1)
        *_, other = encoder.streams(image, state)
        again = list(encoder.streams(image, state))[-1]
    assert relative_l2(encoder.finish(other).numpy(), expected.numpy()) > 1e-2
    assert torch.equal(other, again)


# --- the sentence ------------------------------------------------------------------------------------------------


def stages(**errors: tuple[float, float]) -> list[StageError]:
    """Three good stages, some replaced by (graph, precision) errors."""
    return [StageError(name, *errors.get(name, (1e-7, 1e-7))) for name in ("embedding", "first", "second")]


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
