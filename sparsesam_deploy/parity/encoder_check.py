"""Is the exported encoder the PyTorch one? Part by part and end to end, on any number of images in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..export.encoder import stream_names
from ..export.writer import DTYPES
from ..model.attention import ImageState
from ..model.encoder import SparseSamEncoder
from ..model.outputs import EncoderOutputs
from ..progress import Advance
from .blocks import Judge, Named, StageError, judge_of, last_copy, parameters_of
from .decisions import decided_alike, decisions
from .metrics import cosine, max_abs, relative_l2
from .onnx_runner import EMULATED, GraphRunner, kernels
from .parts import EncoderParts
from .precision import in_float32, rounded_to, undo_rounding


@dataclass(frozen=True)
class EncoderParity:
    """What one image says about the encoder.

    ``max_abs``, ``relative_l2`` and ``cosine`` compare the image embeddings with the reference's.
    ``relative_l2_routed_alike`` compares them with the embeddings of a reference that decides as the graph did. It is
    the effect of rounding alone, without the tokens that are routed differently because their scores almost tie.
    ``outputs`` are the graph's own, ``expected`` the reference's.
    """

    stages: tuple[StageError, ...]
    max_abs: float
    relative_l2: float
    relative_l2_routed_alike: float
    cosine: float
    outputs: EncoderOutputs[np.ndarray]
    expected: EncoderOutputs[np.ndarray]


class EncoderCheck:
    """Holds an exported encoder against its reference: part by part, each on all images before the next is loaded.

    So no session holds the weights of more than one block, and each is loaded once. A part runs in the file's precision
    and, where that is not float32, once more in float32 on the same stream. The runs in the file's precision, one after
    the other, are the run of the file (see ``parts.py``).

    Args:
        path: ``encoder.onnx``.
        reference: the float32 encoder it was exported from.

    Raises:
        InvalidInput, CheckFailed: see `EncoderParts`.
        EnvironmentProblem: ONNX Runtime is not installed.
    """

    def __init__(self, path: Path, reference: SparseSamEncoder) -> None:
        self.kernels = kernels(path)
        self.reference, self.parts = reference, EncoderParts(path, reference)
        self.dtype, self.batch = self.parts.metadata["dtype"], self.parts.metadata["batch"][0]
        if self.dtype == "bf16":
            self.kernels += EMULATED

    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor], advance: Advance) -> list[EncoderParity]:
        """Judge images (1, 3, 1024, 1024).

        Raises:
            CheckFailed: ONNX Runtime refuses a part.
        """
        runs, parts = [_Run(self.reference, image, self.batch) for image in images], self.parts.parts
        for number, part in enumerate(parts):
            advance(number / len(parts), part.name)
            self._judge(number, runs)
            later = {name for other in parts[number + 1 :] for name in other.inputs}
            for run in runs:
                run.forget_all_but(later)
        return [run.parity() for run in runs]

    def _judge(self, number: int, runs: Sequence[_Run]) -> None:
        """One part on all images; its sessions end with the call."""
        part = _JudgedPart(self.parts, number, self.reference)
        for run in runs:
            part(run)


class _JudgedPart:
    """The sessions of one part: in the file's precision, and in float32 without rounding."""

    def __init__(self, parts: EncoderParts, number: int, reference: SparseSamEncoder) -> None:
        self.number, self.reference, self.part = number, reference, parts.parts[number]
        self.batch, self.dtype = parts.metadata["batch"][0], DTYPES[parts.metadata["dtype"]]
        self.parameters = parameters_of(reference, number)
        model = parts.model(self.part)
        if self.dtype == torch.bfloat16:
            model = in_float32(model, (), rounded=True)
        self.as_it_is = GraphRunner(model, parts.path)
        self.in_float32, self.exact_weights = None, False
        if self.dtype != torch.float32:
            model = parts.model(self.part)
            self.exact_weights = undo_rounding(model, self.parameters, self.dtype)
            self.in_float32 = GraphRunner(in_float32(model, (), rounded=False), parts.path)

    def __call__(self, run: _Run) -> None:
        """Run and judge the part on one image, and take the reference through it."""
        inputs, judge = {name: run.values[name] for name in self.part.inputs}, self._judge(run)
        values = self.as_it_is.run(inputs)
        outputs = _in_float32(last_copy(values, self.batch))
        precision = graph = dict(judge.errors(run.decided | outputs))
        if self.in_float32 is not None:
            unrounded = run.decided | last_copy(self.in_float32.run(_in_float32(inputs)), self.batch)
            if self.exact_weights:
                graph = dict(judge.errors(unrounded))
            else:
                with rounded_to(self.dtype, self.parameters):
                    graph = dict(self._judge(run).errors(unrounded))
        run.stages += [StageError(name, graph[name], error) for name, error in precision.items()]
        run.values |= values
        run.outputs = outputs
        run.follow(self.number)

    def _judge(self, run: _Run) -> Judge:
        return judge_of(self.reference, self.number, run.stream)


def _in_float32(values: Named) -> Named:
    """Floating-point values as float32, others as they are."""
    return {name: value.astype(np.float32) if value.dtype.kind == "f" else value for name, value in values.items()}


class _Run:
    """One image between two parts.

    Attributes:
        values: of the graph, ``batch`` copies in its own types: those that later parts take.
        outputs: of the last part, of one copy, float32; ``stream`` is the stream among them, or the image.
        decided: what the graph decided.
        own, alike: the reference's stream by its own decisions, and by the graph's; these are one as long as both
            decide alike, and ``alike`` is None.
    """

    def __init__(self, reference: SparseSamEncoder, image: Tensor, batch: int) -> None:
        self.reference, self.stages = reference, list[StageError]()
        self.values: Named = {"image": np.repeat(image.numpy(), batch, 0)}
        self.outputs: Named = {}
        self.decided: Named = {}
        self.stream, self.own, self.own_state = image, image, ImageState()
        self.alike: Tensor | None = None
        self.global_grids: list[Tensor] = []

    def follow(self, number: int) -> None:
        """Take the reference through the part of that number, which the graph has been through."""
        reference, depth = self.reference, self.reference.config.depth
        if number > depth:
            return
        self.stream = torch.from_numpy(self.outputs[stream_names(depth)[number]])
        if number == 0:
            self.own = reference.embed(self.own)
            return
        block, before = reference.blocks[number - 1], self.own
        self.decided |= {name: self.outputs[name] for name in block.decision_names}
        state = decisions(reference, self.decided)
        self.own = block(before, self.own_state)
        if self.alike is not None or not decided_alike(block, self.own_state, state):
            self.alike = block(before if self.alike is None else self.alike, state)
        if reference.config.hq and number - 1 in reference.config.global_blocks:
            self.global_grids.append(reference.to_grid(self.own))

    def forget_all_but(self, names: set[str]) -> None:
        self.values = {name: value for name, value in self.values.items() if name in names}

    def parity(self) -> EncoderParity:
        """After the last part."""
        grids = torch.stack(self.global_grids) if self.global_grids else None
        expected = EncoderOutputs(self.reference.finish(self.own), grids).map(Tensor.numpy)
        outputs = EncoderOutputs.of_named(self.outputs)
        found, own = outputs.image_embeddings, expected.image_embeddings
        alike = own if self.alike is None else self.reference.finish(self.alike).numpy()
        return EncoderParity(
            tuple(self.stages),
            max_abs(found, own),
            relative_l2(found, own),
            relative_l2(found, alike),
            cosine(found, own),
            outputs,
            expected,
        )
