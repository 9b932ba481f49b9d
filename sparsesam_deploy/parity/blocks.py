"""Does each part of the exported encoder, the embedding, a block or the neck, compute what PyTorch's does?

Every block is judged alone. The reference block takes the stream that the graph fed to its own block, so an error shows
in the block that makes it and in no other. The error is relative to the block's own update, not to the much larger
stream that the update is added to.

What a block decides by the image is judged apart from what it then computes (see ``decisions.py``): the reference
computes with the graph's decisions, not with its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..export.encoder import HQ_OUTPUT, OUTPUT, stream_names
from ..model.attention import ImageState
from ..model.encoder import SparseSamEncoder
from ..model.mlp import RoutedMlp
from ..model.shared_attention import SharedAttention
from .decisions import decided_alike, decisions, ranking_error, routing_error
from .metrics import relative_l2
from .tolerance import AS_FP32, TOLERANCES

Named = dict[str, np.ndarray]
"""Values of a graph by name."""


@dataclass(frozen=True)
class StageError:
    """Relative L2 error of one stage: ``embedding``, ``block 0`` ..., ``block 6 routing`` ..., ``neck``.

    Where windows share rows, that choice is ``block 6 attention routing``.

    ``graph`` is measured in float32 arithmetic, ``precision`` in the file's own.
    """

    name: str
    graph: float
    precision: float


class Runner(Protocol):
    """Anything that runs an encoder."""

    def run(self, inputs: Named) -> Named: ...


def encode_one(runner: Runner, image: np.ndarray, batch: int) -> Named:
    """Run one image (1, 3, 1024, 1024) on an encoder that takes ``batch`` at least: outputs of the last copy of it."""
    return last_copy(runner.run({"image": np.repeat(image, batch, 0)}), batch)


def last_copy(values: Named, batch: int) -> Named:
    """Of values that hold ``batch`` copies of one image."""
    last = {name: len(value) - len(value) // batch for name, value in values.items()}  # windows may be in the batch
    return {name: value[:, -1:] if name == HQ_OUTPUT else value[last[name] :] for name, value in values.items()}


class Judge(Protocol):
    """Holds what a part made of one input against what the reference makes of it."""

    def errors(self, outputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float]]:
        """The error of every stage of the part by name, in order; ``outputs`` are the part's and earlier rankings."""
        ...


class EmbeddingJudge:
    """Of an image (1, 3, 1024, 1024)."""

    def __init__(self, reference: SparseSamEncoder, image: Tensor) -> None:
        self.expected = reference.embed(image).numpy()

    def errors(self, outputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float]]:
        yield "embedding", relative_l2(outputs[stream_names(0)[0]], self.expected)


class NeckJudge:
    """Of the last block's stream (1, N, C), float32."""

    def __init__(self, reference: SparseSamEncoder, stream: Tensor) -> None:
        self.expected = reference.finish(stream).numpy()

    def errors(self, outputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float]]:
        yield "neck", relative_l2(outputs[OUTPUT], self.expected)


class BlockJudge:
    """Of the stream (1, N, C) before block ``index``, float32.

    Graphs that decide alike are held against one computation.
    """

    def __init__(self, reference: SparseSamEncoder, index: int, stream: Tensor) -> None:
        self.reference, self.index, self.before = reference, index, stream
        self.block, self.after_name = reference.blocks[index], stream_names(index + 1)[-1]
        self.followed: ImageState | None = None

    def errors(self, outputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float]]:
        block, name, state = self.block, f"block {self.index}", decisions(self.reference, outputs)
        attention, mlp = block.attention, block.mlp
        if attention.makes_ranking:
            statistics = attention.group_statistics(attention.qkv(block.norm(self.before)))
            yield f"{name} ranking", ranking_error(*statistics, state.decisions[attention.ranking_name])
        if isinstance(attention, SharedAttention):
            scores = attention.token_scores(self.before, block.norm)
            decided = state.decisions[attention.decision_name][0]
            yield f"{name} attention routing", routing_error(scores[0], decided, attention)
        self._follow(state)
        if isinstance(mlp, RoutedMlp):
            decided = state.decisions[mlp.decision_name][0]
            yield f"{name} routing", routing_error(self.scores[0], decided, mlp, self.squares)
        yield name, relative_l2(outputs[self.after_name], self.expected, self.before.numpy())

    def _follow(self, state: ImageState) -> None:
        """Compute the block by these decisions, and the scores of its MLP's."""
        if self.followed is not None and decided_alike(self.block, self.followed, state):
            return
        mlp, attended = self.block.mlp, self.block.attend(self.before, state)
        self.followed, self.expected = state, mlp(attended, state).numpy()
        if isinstance(mlp, RoutedMlp):
            self.scores = mlp.token_scores(attended, state)
            self.squares = mlp.square_scores(attended)[0] if mlp.counts.num_merged else None


def judge_of(reference: SparseSamEncoder, part: int, value: Tensor) -> Judge:
    """The judge of a part by its number: 0 is the embedding and takes the image, the others take the stream."""
    if part == 0:
        return EmbeddingJudge(reference, value)
    if part <= reference.config.depth:
        return BlockJudge(reference, part - 1, value)
    return NeckJudge(reference, value)


def parameters_of(reference: SparseSamEncoder, part: int) -> list[nn.Parameter]:
    """The parameters that a part is computed with."""
    if part == 0:
        return [*reference.patch_embed.parameters(), reference.pos_embed]
    module = reference.blocks[part - 1] if part <= reference.config.depth else reference.neck
    return list(module.parameters())


def stage_errors(
    reference: SparseSamEncoder, image: Tensor, outputs: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, float]]:
    """The error of every stage, by name and in order; ``outputs`` has the graph's inner values, float32."""
    streams = [torch.from_numpy(outputs[name]) for name in stream_names(reference.config.depth)]
    for part, value in enumerate((image, *streams)):
        yield from judge_of(reference, part, value).errors(outputs)


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
