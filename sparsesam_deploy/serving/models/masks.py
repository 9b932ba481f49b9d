"""Triton python model: the decoder's low-resolution masks -> the masks that were asked for, at the image's size.

Copied into the model repository as ``model.py``, so nothing of this package is imported. The size of the encoder's
input is a parameter of the model's configuration.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np


def choose(masks: np.ndarray, iou: np.ndarray, multimask_output: bool) -> tuple[np.ndarray, np.ndarray]:
    """The masks that ``SamPredictor.predict`` answers with, of SAM or (five masks to four IoU) of SAM-HQ.

    SAM: the three multi-masks with ``multimask_output``, else the single one. SAM-HQ: one, the HQ mask added to the
    best of the three or to the single one.

    Args:
        masks: (N, 4, h, w) or (N, 5, h, w) logits.
        iou: (N, 4) predicted IoU.

    Returns:
        Logits (N, M, h, w) and IoU (N, M).
    """
    if masks.shape[1] == iou.shape[1]:
        kept = slice(1, None) if multimask_output else slice(0, 1)
        return masks[:, kept], iou[:, kept]
    rows = np.arange(len(iou))
    best = 1 + iou[:, 1:].argmax(1) if multimask_output else np.zeros(len(iou), np.int64)
    return (masks[rows, best] + masks[:, -1])[:, None], iou[rows, best][:, None]


def upscaling(low_res: int, original: int, longest: int, image_size: int) -> np.ndarray:
    """What scales one axis of a mask, as a matrix: ``Sam.postprocess_masks`` is ``rows @ mask @ columns.T``.

    SAM scales to the encoder's input, cuts off the padding and scales to the image, bilinearly with
    ``align_corners=False``: both linear, each axis alone, and a fifth of the time as matrix products. The logits agree
    up to float32's rounding of positions, at most 2e-4 of a pixel, which in torch itself depends on the processor.

    Args:
        low_res: size of the mask along the axis.
        original: size of the image along the axis.
        longest: longest side of the image.
        image_size: side of the encoder's square input.

    Returns:
        (original, low_res) float32, rows sum to 1.
    """
    scaled = int(original * (image_size * 1.0 / longest) + 0.5)
    to_input = _blend(np.eye(low_res, dtype=np.float32), image_size, scaled)
    return _blend(to_input, original, original)


def _blend(rows: np.ndarray, target: int, kept: int) -> np.ndarray:
    """The first ``kept`` rows of ``rows`` scaled to ``target``, each between two; float32 positions, no step fused."""
    source = len(rows)
    scale, half = np.float32(source) / np.float32(target), np.float32(0.5)
    position = np.maximum(scale * (np.arange(kept, dtype=np.float32) + half) - half, 0)
    first = np.minimum(position.astype(np.int64), source - 1)
    second_weight = np.minimum(position - first.astype(np.float32), np.float32(1))[:, None]
    return rows[first] * (1 - second_weight) + rows[np.minimum(first + 1, source - 1)] * second_weight


class TritonPythonModel:
    """What Triton's python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self.image_size, self.max_mask_pixels = (
            json.loads(parameters[name]["string_value"]) for name in ("image_size", "max_mask_pixels")
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        import triton_python_backend_utils as pb_utils

        responses = []
        for request in requests:
            candidates, iou, size = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("mask_candidates", "iou_candidates", "original_size")
            )
            multimask = pb_utils.get_input_tensor_by_name(request, "multimask_output")  # optional, true as in SAM
            try:
                outputs = self.finish(candidates, iou, size, multimask is None or bool(multimask.as_numpy()[0]))
            except ValueError as error:
                wrong = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=wrong))
            else:
                tensors = [pb_utils.Tensor(name, value) for name, value in outputs.items()]
                responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return responses

    def finish(
        self, candidates: np.ndarray, iou: np.ndarray, size: np.ndarray, multimask_output: bool
    ) -> dict[str, np.ndarray]:
        """One request's outputs by name.

        Raises:
            ValueError: more pixels than one request is answered with.
        """
        low_res, iou = choose(candidates, iou, multimask_output)
        (height, width), masks = map(int, size), len(low_res) * low_res.shape[1]
        # the matrices that scale masks have a row of low-resolution pixels for each of the image's rows and columns
        if max(masks * height * width, (height + width) * low_res.shape[2]) > self.max_mask_pixels:
            raise ValueError(
                f"{masks} masks of {height}x{width} pixels are more than the {self.max_mask_pixels} pixels that one "
                "request is answered with; send fewer prompts at once, set multimask_output to false, or scale the "
                "image down."
            )
        rows, columns = (
            upscaling(side, int(original), int(size.max()), self.image_size)
            for side, original in zip(low_res.shape[2:], size, strict=True)
        )
        masks = np.empty((*low_res.shape[:2], *size), bool)
        for index in np.ndindex(low_res.shape[:2]):  # not all at once: logits take four times the memory of masks
            masks[index] = rows @ low_res[index] @ columns.T > 0
        return {"masks": masks, "iou_predictions": iou, "low_res_masks": low_res}
