"""Is the exported encoder the PyTorch one? Block by block, end to end, and in the masks that come out.

Every block is judged alone: the reference block is fed the stream that the graph itself fed to its block, so that an
error shows where it is made and nowhere else, and is measured against the block's own update, not against the much
larger stream it is added to.

What a block decides by the image (a ranking of groups, a routing of tokens) is judged apart from what it then
computes. Rounding decides between candidates of almost equal score, and either is right: so a decision is in error by
the score it gives away, and the reference computes with the graph's decisions, not with its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..export.encoder import HQ_OUTPUT, OUTPUT, inner_names, stream_names
from ..export.writer import DTYPES
from ..model.attention import ImageState
from ..model.encoder import SparseSamEncoder
from ..model.layers import cast_copy
from ..model.mlp import RoutedMlp
from ..model.outputs import EncoderOutputs
from ..model.ranking import group_scores
from ..model.shared_attention import SharedAttention
from ..ops.geometry import GROUP, SQUARE
from .metrics import cosine, max_abs, relative_l2
from .onnx_runner import OnnxRunner
from .tolerance import AS_FP32, TOLERANCES

TINY = 1e-30


@dataclass(frozen=True)
class StageError:
    """Relative L2 error of one stage: ``embedding``, ``block 0`` ..., ``block 6 routing`` ..., ``neck``.

    Where windows share rows, that choice is ``block 6 attention routing``.

    ``graph`` is measured in float32 arithmetic, ``precision`` in the file's own.
    """

    name: str
    graph: float
    precision: float


@dataclass(frozen=True)
class EncoderParity:
    """What one image says about the encoder.

    ``max_abs``, ``relative_l2`` and ``cosine`` compare the image embeddings with the reference's.
    ``relative_l2_routed_alike`` compares them with those of the reference when it decides as the graph did: what
    rounding alone makes of them, without the tokens that are routed differently by deciding near-ties.
    ``outputs`` are the graph's own.
    """

    stages: tuple[StageError, ...]
    max_abs: float
    relative_l2: float
    relative_l2_routed_alike: float
    cosine: float
    outputs: EncoderOutputs[np.ndarray]


class EncoderCheck:
    """Holds an exported encoder against its reference, image after image.

    Args:
        path: ``encoder.onnx``.
        reference: the float32 encoder it was exported from.
    """

    def __init__(self, path: Path, reference: SparseSamEncoder) -> None:
        self.reference, self.inner_names = reference, inner_names(reference)
        self.runner = OnnxRunner(path, self.inner_names)
        self.dtype, self.batch = self.runner.metadata["dtype"], self.runner.metadata["batch"][0]
        self.in_float32 = None
        if self.dtype != "fp32":
            self.in_float32 = OnnxRunner(path, self.inner_names, float32=True)
            self.rounded_reference = cast_copy(cast_copy(reference, DTYPES[self.dtype]), torch.float32)

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor, expected: torch.Tensor) -> EncoderParity:
        """Judge one image (1, 3, 1024, 1024); ``expected`` are the reference's embeddings of it."""
        outputs = encode_one(self.runner, image.numpy(), self.batch)
        precision = dict(stage_errors(self.reference, image, outputs))
        graph = precision
        if self.in_float32 is not None:
            in_float32 = encode_one(self.in_float32, image.numpy(), self.batch)
            graph = dict(stage_errors(self.rounded_reference, image, in_float32))
        routed_alike = deque(self.reference.streams(image, decisions(self.reference, outputs)), maxlen=1).pop()
        embeddings = outputs[OUTPUT]
        return EncoderParity(
            tuple(StageError(name, graph[name], error) for name, error in precision.items()),
            max_abs(embeddings, expected.numpy()),
            relative_l2(embeddings, expected.numpy()),
            relative_l2(embeddings, self.reference.finish(routed_alike).numpy()),
            cosine(embeddings, expected.numpy()),
            EncoderOutputs.of_named(outputs),
        )


class Runner(Protocol):
    """Anything that runs an encoder."""

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]: ...


def encode_one(runner: Runner, image: np.ndarray, batch: int) -> dict[str, np.ndarray]:
    """Run one image (1, 3, 1024, 1024) on an encoder that takes ``batch`` at least: outputs of the last copy of it."""
    outputs = runner.run({"image": np.repeat(image, batch, 0)})
    last = {name: len(value) - len(value) // batch for name, value in outputs.items()}  # windows may be in the batch
    return {name: value[:, -1:] if name == HQ_OUTPUT else value[last[name] :] for name, value in outputs.items()}


def decisions(reference: SparseSamEncoder, outputs: dict[str, np.ndarray]) -> ImageState:
    """What the graph decided, for the reference to follow."""
    return ImageState({name: torch.from_numpy(outputs[name]).int() for name in reference.decision_names})


def stage_errors(
    reference: SparseSamEncoder, image: torch.Tensor, outputs: dict[str, np.ndarray]
) -> Iterator[tuple[str, float]]:
    """The error of every stage, by name and in order; ``outputs`` has the graph's inner values."""
    streams = [torch.from_numpy(outputs[name]) for name in stream_names(reference.config.depth)]
    yield "embedding", relative_l2(streams[0].numpy(), reference.embed(image).numpy())
    state = decisions(reference, outputs)
    for index, (block, before, after) in enumerate(zip(reference.blocks, streams, streams[1:], strict=False)):
        attention, mlp = block.attention, block.mlp
        if attention.makes_ranking:
            statistics = attention.group_statistics(attention.qkv(block.norm(before)))
            yield f"block {index} ranking", ranking_error(*statistics, state.decisions[attention.ranking_name])
        if isinstance(attention, SharedAttention):
            scores = attention.token_scores(before, block.norm)
            decided = state.decisions[attention.decision_name][0]
            yield f"block {index} attention routing", routing_error(scores[0], decided, attention)
        attended = block.attend(before, state)
        if isinstance(mlp, RoutedMlp):
            scores = mlp.token_scores(attended, state)
            squares = mlp.square_scores(attended)[0] if mlp.counts.num_merged else None
            decided = state.decisions[mlp.decision_name][0]
            yield f"block {index} routing", routing_error(scores[0], decided, mlp, squares)
        yield f"block {index}", relative_l2(after.numpy(), mlp(attended, state).numpy(), before.numpy())
    yield "neck", relative_l2(outputs[OUTPUT], reference.finish(streams[-1]).numpy())


def ranking_error(spread: torch.Tensor, similarity: torch.Tensor, ranking: torch.Tensor) -> float:
    """Relative L2 error of the scores in ranked order, in the worst ranking; infinite if a group is missing.

    Scores are relative to the deviation of the statistics they are made of, and magnify rounding where these hardly
    vary: in an empty window all is rounding. So an error counts as much as the statistics themselves vary.

    Args:
        spread, similarity, ranking: (B, H, G) the statistics of each group, and the groups best first.
    """
    if (ranking.sort().values != torch.arange(ranking.shape[-1])).any():
        return float("inf")
    scores = group_scores(spread.double(), similarity.double())
    best = scores.sort(descending=True).values
    errors = (scores.gather(-1, ranking.long()) - best).norm(dim=-1) / best.norm(dim=-1).clamp_min(TINY)
    variation = torch.minimum(spread.std(-1) / spread.mean(-1).clamp_min(TINY), similarity.std(-1)).clamp_max(1)
    return float((errors * variation).max())


def routing_error(
    scores: torch.Tensor,
    row_of_token: torch.Tensor,
    half: RoutedMlp | SharedAttention,
    square_scores: torch.Tensor | None = None,
) -> float:
    """Relative L2 error of the scores of the tokens with a row of their own, best first.

    Where 4x4 squares are merged, these tokens are compared with the best of the others, and the merged squares' scores
    with the lowest ones; the larger error counts.

    Infinite if rows are not given out as they must be: one to each of those tokens, then (``share``) one to each other
    group, then one to each merged square, and none to the rest.

    Args:
        scores, row_of_token: (N,), Z-ordered.
        square_scores: (N / 16,), needed where squares are merged.
    """
    own, rows, merged, num_tokens = half.num_own_rows, half.num_rows, half.counts.num_merged, len(scores)
    flat = rows - own - merged
    tokens = torch.tensor(
        [1] * own + [GROUP] * flat + [SQUARE] * merged + [num_tokens - own - GROUP * flat - SQUARE * merged]
    )
    if not torch.equal(row_of_token.sort().values, torch.arange(rows + 1).repeat_interleave(tokens).int()):
        return float("inf")
    if half.share and not shared_alike(row_of_token, GROUP, own):
        return float("inf")
    if not merged:
        return choice_error(scores[row_of_token < own], scores)
    if not shared_alike(row_of_token, SQUARE, own + flat):
        return float("inf")
    is_merged = row_of_token >= own + flat
    assert square_scores is not None
    detailed = choice_error(scores[row_of_token < own], scores[~is_merged])
    return max(detailed, choice_error(square_scores[is_merged[::SQUARE]], square_scores, lowest=True))


def shared_alike(row_of_token: torch.Tensor, size: int, first: int) -> bool:
    """Whether all ``size`` tokens of a group have the same row wherever one has a row from ``first`` on."""
    groups = row_of_token.unflatten(0, (-1, size))
    shared = groups[(groups >= first).any(1)]
    return bool((shared == shared[:, :1]).all())


def choice_error(chosen: torch.Tensor, scores: torch.Tensor, lowest: bool = False) -> float:
    """Relative L2 error of the ``chosen`` of ``scores``, both sorted, as the highest (or the lowest) of them."""
    best = scores.sort(descending=not lowest).values[: len(chosen)]
    return relative_l2(chosen.sort(descending=not lowest).values.numpy(), best.numpy())


def first_failure(stages: Sequence[StageError], dtype: str) -> str | None:
    """The first stage over tolerance, as a sentence; None when all are within."""
    limit = TOLERANCES[dtype].block
    for stage in stages:
        if not stage.graph <= AS_FP32.block:
            return (
                f"{stage.name} computes something else: error {stage.graph:.1e} in float32, limit {AS_FP32.block:.0e}"
            )
        if not stage.precision <= limit:
            return f"{stage.name} loses precision: error {stage.precision:.1e} in {dtype}, limit {limit:.0e}"
    return None
