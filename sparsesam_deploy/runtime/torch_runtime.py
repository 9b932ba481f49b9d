"""The encoder in PyTorch as a runtime."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..engines.manifest import EngineManifest
from ..export.writer import DTYPES
from ..model.checkpoint import LoadedSam
from ..model.encoder import SparseSamEncoder
from ..model.layers import cast_copy
from ..ops.backend import Backend
from .interface import Run, Runtime


class TorchRuntime(Runtime):
    """A `SparseSamEncoder` where its parameters are and in their precision; on a GPU convolutions are not in TF32."""

    def __init__(self, encoder: SparseSamEncoder) -> None:
        parameter = next(encoder.parameters())
        self.encoder, self.device, self.dtype = encoder, parameter.device, parameter.dtype
        self.kernels = f"torch {torch.__version__} {encoder.backend} on {self.device}"

    @classmethod
    def of_build(cls, loaded: LoadedSam, manifest: EngineManifest, device: torch.device) -> TorchRuntime:
        """The encoder rebuilt from its checkpoint with the manifest's sparsity and precision.

        The operators are plain torch on the CPU and the Triton kernels on a GPU.
        """
        kernels: Backend = "triton" if device.type == "cuda" else "reference"
        choices = manifest.sparsity, manifest.export.gelu
        encoder = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, *choices, kernels)
        return cls(cast_copy(encoder, DTYPES[manifest.export.dtype]).to(device))

    def new_run(self) -> Run:
        return self._run

    def _run(self, image: Tensor) -> tuple[Tensor, ...]:
        with _without_tf32() if self.device.type == "cuda" else nullcontext():
            return self.encoder.encode(image.to(self.dtype)).map(lambda result: result.float().contiguous()).all


_precision_lock = threading.Lock()
"""Torch's setting is the process's: of two runs the later one would restore what the earlier one had set."""


@contextmanager
def _without_tf32() -> Iterator[None]:
    """cuDNN computes in full float32; torch's default is TF32, with 10 bits behind the point instead of 23.

    Torch has two names for the setting, and raises where the older one is read while they differ: both are set.
    """
    cudnn: Any = torch.backends.cudnn  # at run time an object with more than the module declares
    with _precision_lock:
        by_operator = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
        try:
            allowed = cudnn.allow_tf32
        except RuntimeError:  # the user has set the newer one
            allowed = None
        if allowed is not None:
            cudnn.allow_tf32 = False
        cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee"
        try:
            yield
        finally:
            if allowed is not None:
                cudnn.allow_tf32 = allowed
            cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = by_operator
