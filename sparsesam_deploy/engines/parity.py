"""Is the exported encoder the PyTorch one? Block by block, end to end, and in the masks that come out.

Every block is judged alone: the reference block is fed the stream that the graph itself fed to its block, so that an
error shows where it is made and nowhere else, and is measured against the block's own update, not against the much
larger stream it is added to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..errors import CheckFailed
from ..export.encoder import HQ_OUTPUT, OUTPUT, stream_names
from ..export.writer import DTYPES
from ..model.attention import ImageState
from ..model.encoder import SparseSamEncoder
from ..model.layers import cast_copy
from ..model.mlp import RoutedMlp
from .metrics import cosine, max_abs, relative_l2
from .onnx_runner import OnnxRunner
from .tolerance import AS_FP32, TOLERANCES


@dataclass(frozen=True)
class StageError:
    """Error of one stage of the encoder: ``embedding``, ``block 0`` ..., ``neck``.

    ``graph`` is measured in float32 arithmetic, ``precision`` in the file's own; ``rerouted`` counts tokens left out
    of ``precision`` because they were routed differently.
    """

    name: str
    graph: float
    precision: float
    rerouted: int


@dataclass(frozen=True)
class EncoderParity:
    """What one image says about the encoder; ``embeddings`` (1, 256, 64, 64) are the graph's own."""

    stages: tuple[StageError, ...]
    max_abs: float
    relative_l2: float
    cosine: float
    outputs: dict[str, np.ndarray]


class EncoderCheck:
    """Holds an exported encoder against its reference, image after image.

    Args:
        path: ``encoder.onnx``.
        reference: the float32 encoder it was exported from.
    """

    def __init__(self, path: Path, reference: SparseSamEncoder) -> None:
        self.reference, self.names = reference, stream_names(reference.config.depth)
        self.runner = OnnxRunner(path, self.names)
        self.dtype, self.batch = self.runner.metadata["dtype"], self.runner.metadata["batch"][0]
        self._check_groups(path)
        self.in_float32 = None
        if self.dtype != "fp32":
            self.in_float32 = OnnxRunner(path, self.names, float32=True)
            self.rounded_reference = cast_copy(cast_copy(reference, DTYPES[self.dtype]), torch.float32)

    def _check_groups(self, path: Path) -> None:
        """One group more or less could pass for a near-tie, so it is not left to the figures."""
        expected = [block.mlp.num_groups for block in self.reference.blocks if isinstance(block.mlp, RoutedMlp)]
        if self.runner.num_groups != expected:
            raise CheckFailed(
                f"{path} computes {self.runner.num_groups} groups in full in its routed blocks, not {expected}; "
                "export the checkpoint again."
            )

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor, expected: torch.Tensor) -> EncoderParity:
        """Judge one image (1, 3, 1024, 1024); ``expected`` are the reference's embeddings of it."""
        outputs = encode_one(self.runner, image.numpy(), self.batch)
        stages = list(self._stages(self.reference, image, outputs, TOLERANCES[self.dtype].rerouted))
        exact = stages
        if self.in_float32 is not None:
            in_float32 = encode_one(self.in_float32, image.numpy(), self.batch)
            exact = list(self._stages(self.rounded_reference, image, in_float32, AS_FP32.rerouted))
        embeddings = outputs[OUTPUT]
        return EncoderParity(
            tuple(
                StageError(name, graph, precision, rerouted)
                for (name, precision, rerouted), (_, graph, _) in zip(stages, exact, strict=True)
            ),
            max_abs(embeddings, expected.numpy()),
            relative_l2(embeddings, expected.numpy()),
            cosine(embeddings, expected.numpy()),
            {name: value for name, value in outputs.items() if name not in self.names},
        )

    def _stages(
        self, reference: SparseSamEncoder, image: torch.Tensor, outputs: dict[str, np.ndarray], rerouted: int
    ) -> Iterator[tuple[str, float, int]]:
        streams = [outputs[name] for name in self.names]
        yield "embedding", relative_l2(streams[0], reference.embed(image).numpy()), 0
        state = ImageState()
        for index, block in enumerate(reference.blocks):
            before, after = streams[index], streams[index + 1]
            expected = block(torch.from_numpy(before), state).numpy()
            slack = rerouted if isinstance(block.mlp, RoutedMlp) else 0
            yield f"block {index}", *update_error(after, expected, before, slack)
        yield "neck", relative_l2(outputs[OUTPUT], reference.finish(torch.from_numpy(streams[-1])).numpy()), 0


class Runner(Protocol):
    """Anything that runs an encoder."""

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]: ...


def encode_one(runner: Runner, image: np.ndarray, batch: int) -> dict[str, np.ndarray]:
    """Run one image (1, 3, 1024, 1024) on an encoder that takes ``batch`` at least: outputs of the last copy of it."""
    outputs = runner.run({"image": np.repeat(image, batch, 0)})
    return {name: value[:, -1:] if name == HQ_OUTPUT else value[-1:] for name, value in outputs.items()}


def update_error(actual: np.ndarray, expected: np.ndarray, before: np.ndarray, slack: int) -> tuple[float, int]:
    """Relative L2 error of a block's update, without the tokens that were routed differently.

    Args:
        actual, expected: the block's output (1, N, C); ``before``: its input.
        slack: how many tokens may be left out: those in error by more than a tenth of the mean update, worst first.

    Returns:
        The error, and how many tokens were left out.
    """
    by_token = np.linalg.norm(np.subtract(actual, expected, dtype=np.float64), axis=2).ravel()
    typical = np.sqrt(np.mean(np.sum(np.subtract(expected, before, dtype=np.float64) ** 2, axis=2)))
    worst = np.argsort(-by_token)[:slack]
    left_out = worst[np.isfinite(by_token[worst]) & (by_token[worst] > 0.1 * typical)]
    kept = np.delete(np.arange(by_token.size), left_out)
    return relative_l2(actual[:, kept], expected[:, kept], before[:, kept]), len(left_out)


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
