"""Triton python model: prompts in pixels of the image -> the decoder's inputs.

Copied into the model repository as ``model.py``, so nothing of this package is imported. Sizes are parameters of the
model's configuration.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

NO_POINT, BOX_CORNERS = -1, (2, 3)
LABELS = (-1, 0, 1, 2, 3)


def decoder_prompts(
    coords: np.ndarray, labels: np.ndarray, size: tuple[int, int], image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts in the image's pixels -> the decoder's: scaled, with the padding point that SAM adds where no box is.

    Nothing is added where a label is 2 or 3 (a box), or where every prompt has a padding point (label -1) already.

    Args:
        coords: (N, P, 2) x, y in pixels of the image.
        labels: (N, P), 1 foreground, 0 background, 2 and 3 a box's corners, -1 nothing.
        size: (height, width) of the image.
        image_size: side of the encoder's input.

    Returns:
        Coordinates (N, P', 2) float32 and labels (N, P') float32.

    Raises:
        ValueError: shapes that are not these or do not match, no prompt or no point, coordinates that are not numbers,
            or another label.
    """
    if coords.ndim != 3 or coords.shape[2] != 2 or labels.shape != coords.shape[:2] or not labels.size:
        raise ValueError(
            f"point_coords of shape {coords.shape} and point_labels of shape {labels.shape} are not "
            "(prompts, points, 2) and (prompts, points); give one label for each point."
        )
    if not np.isfinite(coords).all():
        raise ValueError("point_coords holds values that are not finite; give pixels of the image.")
    if not np.isin(labels, LABELS).all():
        wrong = labels[~np.isin(labels, LABELS)][0]
        raise ValueError(f"label {wrong} is unknown; give 1, 0, 2 and 3 for a box's corners, or -1 for no point.")
    scale = image_size * 1.0 / max(size)
    factors = np.array([int(side * scale + 0.5) / side for side in reversed(size)])
    scaled = (coords.astype(np.float64) * factors).astype(np.float32)
    if not np.isin(labels, BOX_CORNERS).any() and not (labels == NO_POINT).any(1).all():
        scaled = np.concatenate((scaled, np.zeros_like(scaled[:, :1])), 1)
        labels = np.concatenate((labels, np.full_like(labels[:, :1], NO_POINT)), 1)
    return scaled, labels.astype(np.float32)


class TritonPythonModel:
    """What Triton's python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self.image_size, self.mask_size, self.max_mask_pixels = (
            json.loads(parameters[name]["string_value"]) for name in ("image_size", "mask_size", "max_mask_pixels")
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        import triton_python_backend_utils as pb_utils

        responses = []
        for request in requests:
            coords, labels, size = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("point_coords", "point_labels", "original_size")
            )
            try:
                outputs = self.prepare(coords, labels, size)
            except ValueError as error:
                wrong = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=wrong))
            else:
                tensors = [pb_utils.Tensor(name, value) for name, value in outputs.items()]
                responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return responses

    def prepare(self, coords: np.ndarray, labels: np.ndarray, size: np.ndarray) -> dict[str, np.ndarray]:
        """One request's outputs by name; no earlier mask.

        Raises:
            ValueError: as `decoder_prompts`; a size that no encoded image has; more pixels than are answered.
        """
        height, width = map(int, size)
        if min(height, width) < 1 or int(min(height, width) * (self.image_size / max(height, width)) + 0.5) == 0:
            raise ValueError(f"original_size {height}x{width} is no image's; give what came with the embeddings.")
        pixels = max(height * width, self.mask_size**2)  # the decoder's own masks are answered too
        if len(coords) * pixels > self.max_mask_pixels:
            raise ValueError(
                f"{len(coords)} prompts with a mask of {pixels} pixels each ask for more than the "
                f"{self.max_mask_pixels} pixels that one request is answered with; send fewer prompts at once, or "
                "scale the image down."
            )
        coords, labels = decoder_prompts(coords, labels, (height, width), self.image_size)
        return {
            "decoder_point_coords": coords,
            "decoder_point_labels": labels,
            "decoder_mask_input": np.zeros((len(coords), 1, self.mask_size, self.mask_size), np.float32),
            "decoder_has_mask_input": np.zeros(len(coords), np.float32),
        }
