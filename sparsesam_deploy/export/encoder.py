"""``encoder.onnx``: the sparse image encoder with its token order baked in."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..model.attention import ImageState
from ..model.checkpoint import LoadedSam
from ..model.config import IMAGE_SIZE
from ..model.encoder import SparseSamEncoder
from ..model.layers import cast_copy
from ..model.outputs import EncoderOutputs
from ..provenance import package_versions
from .metadata import PREPROCESSING
from .options import ExportOptions
from .writer import DTYPES, export_module

OUTPUT, HQ_OUTPUT = (field.name for field in fields(EncoderOutputs))


def stream_names(depth: int) -> tuple[str, ...]:
    """Names of the residual stream in the graph: after the embedding, then after each block."""
    return ("stream_embedding", *(f"stream_block_{i:02d}" for i in range(depth)))


def inner_names(encoder: SparseSamEncoder) -> tuple[str, ...]:
    """Names of the inner values a verifier looks at: the streams, and what ranking and routing decide."""
    return (*stream_names(encoder.config.depth), *encoder.decision_names)


def export_encoder(
    encoder: SparseSamEncoder,
    loaded: LoadedSam,
    path: Path,
    options: ExportOptions,
) -> None:
    """Write the encoder.

    The input ``image`` (B, 3, 1024, 1024) and the output ``image_embeddings`` (B, 256, 64, 64) are float32 in every
    precision; SAM-HQ adds ``interm_embeddings`` (num_global, B, 64, 64, C).

    Args:
        encoder: float32, from ``loaded``.
        options: precision, batch and whether to inline; GELU is the encoder's own.

    Raises:
        CheckFailed: onnx.checker refuses the result.
    """
    dtype, (low, _, high) = DTYPES[options.dtype], options.batch
    export_module(
        lambda: _EncoderGraph(cast_copy(encoder, dtype), dtype),
        {"image": torch.zeros(high, 3, IMAGE_SIZE, IMAGE_SIZE)},
        (OUTPUT, HQ_OUTPUT) if encoder.config.hq else (OUTPUT,),
        path,
        encoder_metadata(encoder, loaded, options),
        {"image": {0: torch.export.Dim("batch")}} if low != high else None,
        inner_names(encoder),
        options.inline,
    )


def encoder_metadata(encoder: SparseSamEncoder, loaded: LoadedSam, options: ExportOptions) -> dict[str, Any]:
    """Everything that decides what the file computes, and where it came from."""
    return {
        "kind": "encoder",
        **model_metadata(loaded, options.dtype),
        **asdict(encoder.sparsity),
        **asdict(replace(options, gelu=encoder.gelu)),
        "effective_density": encoder.effective_density,
        "preprocessing": PREPROCESSING,
    }


def model_metadata(loaded: LoadedSam, dtype: str) -> dict[str, Any]:
    """What encoder and decoder of one checkpoint have in common."""
    return {
        "family": loaded.config.family,
        "model": asdict(loaded.config),
        "checkpoint": {"source": loaded.source, "sha256": loaded.sha256},
        "dtype": dtype,
        "versions": package_versions(),
    }


class _EncoderGraph(nn.Module):
    def __init__(self, encoder: SparseSamEncoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder, self.dtype = encoder, dtype

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        state = ImageState()
        streams = list(self.encoder.streams(image.to(self.dtype), state))
        outputs = self.encoder.outputs_of(streams).map(Tensor.float)
        return (*outputs.all, *streams, *(state.decisions[name] for name in self.encoder.decision_names))
