"""``verify``: the PyTorch reference against the exported files, and against the engine where a GPU can run it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..engines.manifest import EngineManifest
from ..errors import CheckFailed
from ..export.metadata import load_exported, sparsity_of
from ..model.checkpoint import LoadedSam
from ..model.config import DENSE
from ..model.decoder import SamDecoder
from ..model.encoder import SparseSamEncoder
from ..model.image import Preprocessed
from ..model.outputs import EncoderOutputs
from ..progress import Advance
from .blocks import encode_one
from .encoder_check import EncoderCheck, EncoderParity
from .engine_runner import EngineRunner, why_not
from .masks import Agreement, Answer, Decode, agreement, answer, onnx_decode, torch_decode
from .metrics import cosine, median_error, relative_l2
from .onnx_runner import OnnxRunner
from .report import EngineResult, ImageResult, ParityReport
from .samples import Sample

IMAGES_AT_ONCE = 8
"""Images that go through the encoder's parts together: of each, four streams (20 MiB in ViT-H) are kept meanwhile."""
ENCODER_SHARE = 0.7
"""Of the time that an image takes, before dense PyTorch and the masks."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A judged image kept for the picture: masks of dense PyTorch and of the exported files, and their agreement."""

    sample: Sample
    dense: Answer
    exported: Answer
    total: Agreement


class Verifier:
    """Compares one exported encoder and decoder with the checkpoint they came from.

    Args:
        loaded: the checkpoint, float32.
        encoder_path, decoder_path: the exported files.
        engine_folder, manifest: where the engine lies and what it is, if one was built.

    Raises:
        CheckFailed: the files were edited, or come from another checkpoint.
    """

    def __init__(
        self,
        loaded: LoadedSam,
        encoder_path: Path,
        decoder_path: Path,
        engine_folder: Path | None = None,
        manifest: EngineManifest | None = None,
    ) -> None:
        metadata = _metadata(encoder_path, "encoder", loaded)
        _metadata(decoder_path, "decoder", loaded)
        encoder, config = loaded.sam.image_encoder, loaded.config
        self.dtype = metadata["dtype"]
        self.sparse = SparseSamEncoder(encoder, config, sparsity_of(metadata), metadata["gelu"])
        self.dense = SparseSamEncoder(encoder, config, DENSE)
        self.check = EncoderCheck(encoder_path, self.sparse)
        self.decoder = OnnxRunner(decoder_path)
        self.decode_onnx = onnx_decode(self.decoder)
        self.decode_torch = torch_decode(SamDecoder(loaded.sam, config))
        self.first: Shown | None = None
        self.engine, self.decode_engine, self.engine_status = None, self.decode_onnx, "not built"
        if manifest is not None:
            reason = why_not(manifest)
            self.engine_status = f"not run: {reason}"
            if reason is None:
                assert engine_folder is not None  # where there is a manifest
                self.engine = EngineRunner(engine_folder, manifest, manifest.engine)
                self.engine_status = f"run: {self.engine.kernels}"
                if manifest.decoder_engine is not None:
                    self.decode_engine = onnx_decode(EngineRunner(engine_folder, manifest, manifest.decoder_engine))

    def __call__(self, samples: Sequence[Sample], advance: Advance, min_dense_iou: float | None = None) -> ParityReport:
        """Judge every sample; nothing is raised for a failed check, the report says so."""
        results: list[ImageResult] = []
        for start in range(0, len(samples), IMAGES_AT_ONCE):
            together = samples[start : start + IMAGES_AT_ONCE]

            def told(share: float, words: str, first: int = start, count: int = len(together)) -> None:
                advance((first + share * count) / len(samples), words)

            results += self._judge_together(together, told)
        return ParityReport(
            dtype=self.dtype,
            encoder_kernels=self.check.kernels,
            decoder_kernels=self.decoder.kernels,
            engine=self.engine_status,
            images=tuple(results),
            min_dense_iou=min_dense_iou,
        )

    def _judge_together(self, samples: Sequence[Sample], advance: Advance) -> Iterator[ImageResult]:
        images = [sample.preprocessed() for sample in samples]
        tensors = [image.tensor for image in images]
        parities = self.check(tensors, lambda share, words: advance(ENCODER_SHARE * share, words))
        for index, sample in enumerate(samples):
            advance(ENCODER_SHARE + (1 - ENCODER_SHARE) * index / len(samples), sample.name)
            yield self._judge(sample, images[index], parities[index])

    def _judge(self, sample: Sample, image: Preprocessed, encoder: EncoderParity) -> ImageResult:
        prompts = sample.prompts()

        def masks(decode: Decode, outputs: EncoderOutputs[np.ndarray], chosen: np.ndarray | None = None) -> Answer:
            return answer(decode, outputs, prompts, image, chosen)

        dense = masks(self.decode_torch, reference_outputs(self.dense, image.tensor))
        sparse = masks(self.decode_torch, encoder.expected, dense.chosen)
        exported = masks(self.decode_onnx, encoder.outputs, dense.chosen)
        engine = None
        if self.engine is not None:
            outputs = EncoderOutputs.of_named(encode_one(self.engine, image.tensor.numpy(), self.check.batch))
            found, expected = outputs.image_embeddings, encoder.expected.image_embeddings
            engine = EngineResult(
                relative_l2=relative_l2(found, expected),
                median_error=median_error(found, expected),
                cosine=cosine(found, expected),
                parity=agreement(masks(self.decode_engine, outputs, dense.chosen), sparse),
            )
        result = ImageResult(
            image=sample.name,
            prompts=len(prompts.point_labels),
            stages=encoder.stages,
            max_abs=encoder.max_abs,
            relative_l2=encoder.relative_l2,
            relative_l2_routed_alike=encoder.relative_l2_routed_alike,
            cosine=encoder.cosine,
            parity=agreement(exported, sparse),
            cost=agreement(sparse, dense),
            total=agreement(exported, dense),
            engine=engine,
        )
        self.first = self.first or Shown(sample, dense, exported, result.total)
        return result


def _metadata(path: Path, kind: str, loaded: LoadedSam) -> dict[str, Any]:
    """The metadata of an exported file, which must come from ``loaded``."""
    _, metadata = load_exported(path, kind)
    if metadata["checkpoint"]["sha256"] != loaded.sha256:
        raise CheckFailed(
            f"{path} was exported from {metadata['checkpoint']['source']}, not from {loaded.source}; "
            "give the checkpoint it came from or export again."
        )
    return metadata


@torch.inference_mode()
def reference_outputs(encoder: SparseSamEncoder, image: torch.Tensor) -> EncoderOutputs[np.ndarray]:
    """What the PyTorch encoder gives for an image, as arrays."""
    return encoder.encode(image).map(as_array)


def as_array(value: torch.Tensor) -> np.ndarray:
    """A tensor on any device as an array."""
    return value.cpu().numpy()
