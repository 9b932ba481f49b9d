"""From embeddings to masks through a real decoder, and how well two sets of masks agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel

from ..model.decoder import PADDING, Prompts, SamDecoder
from ..model.image import Preprocessed, upscale_masks
from ..model.outputs import EncoderOutputs
from .engine_runner import EngineRunner
from .metrics import boundary_iou, mask_iou
from .onnx_runner import OnnxRunner

Decode = Callable[[EncoderOutputs[np.ndarray], Prompts], tuple[np.ndarray, np.ndarray]]
"""Encoder outputs of one image and N prompts -> (N, M, 256, 256) logits and (N, 4) predicted IoU."""


class Agreement(BaseModel):
    """IoU and boundary IoU of two sets of masks: means, and the worst prompt."""

    mean_iou: float
    min_iou: float
    mean_boundary_iou: float
    min_boundary_iou: float


@dataclass(frozen=True, eq=False)
class Answer:
    """Masks (N, H, W) bool at the image's size, and which of SAM's masks each is."""

    masks: np.ndarray
    chosen: np.ndarray


def torch_decode(decoder: SamDecoder, device: torch.device | str = "cpu") -> Decode:
    """Decode with PyTorch on ``device``, where ``decoder`` is."""

    @torch.inference_mode()
    def decode(outputs: EncoderOutputs[np.ndarray], prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
        named = outputs.map(lambda value: torch.from_numpy(value).to(device)).named
        asked = {name: value.to(device) for name, value in prompts.tensors().items()}
        masks, iou = decoder(**named, **asked)
        return masks.cpu().numpy(), iou.cpu().numpy()

    return decode


def onnx_decode(runner: OnnxRunner | EngineRunner) -> Decode:
    """Decode with ``decoder.onnx`` or the engine made of it."""

    def decode(outputs: EncoderOutputs[np.ndarray], prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
        results = runner.run({**outputs.named, **prompts.arrays()})
        return results["low_res_masks"], results["iou_predictions"]

    return decode


def answer(
    decode: Decode,
    outputs: EncoderOutputs[np.ndarray],
    prompts: Prompts,
    image: Preprocessed,
    chosen: np.ndarray | None = None,
) -> Answer:
    """Segment as SAM does: of a single point, which may mean several things, the one of three masks with the highest
    predicted IoU; of a box or several points the single mask.

    SAM-HQ's answer is the sum with its HQ mask. ``chosen`` fixes the choice, so that two answers are of the same mask.
    """
    logits, iou = decode(outputs, prompts)
    if chosen is None:
        ambiguous = (prompts.point_labels != PADDING).sum(1) == 1
        chosen = np.where(ambiguous, 1 + iou[:, 1:4].argmax(1), 0)
    picked = logits[np.arange(len(logits)), chosen]
    if logits.shape[1] > 4:
        picked = picked + logits[:, 4]
    masks = [  # one by one: at the image's size, float32 logits of all prompts may be gigabytes
        upscale_masks(torch.from_numpy(mask[None, None]), image.input_size, image.original_size)[0, 0].numpy() > 0
        for mask in picked
    ]
    return Answer(np.stack(masks), chosen)


def agreement(actual: Answer, expected: Answer) -> Agreement:
    """Compare prompt by prompt."""
    pairs = list(zip(actual.masks, expected.masks, strict=True))
    iou = [mask_iou(a, b) for a, b in pairs]
    boundary = [boundary_iou(a, b) for a, b in pairs]
    return Agreement(
        mean_iou=float(np.mean(iou)),
        min_iou=min(iou),
        mean_boundary_iou=float(np.mean(boundary)),
        min_boundary_iou=min(boundary),
    )
