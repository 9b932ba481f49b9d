"""Triton python model: the bytes of an image file -> the encoder's input and the image's size.

Copied into the model repository as ``model.py``, so nothing of this package is imported. Sizes and pixel statistics are
parameters of the model's configuration.
"""

from __future__ import annotations

import io
import json
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

UINT16_MAX = 65535


def decode_image(data: bytes) -> np.ndarray:
    """Decode any image file that Pillow opens, upright: (height, width, 3) uint8 RGB, as ``model.image.read_image``.

    Raises:
        ValueError: it is none, is damaged, has pixels of no fixed range, or more than Pillow decodes safely.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata; sizes between Pillow's limit and its hard limit
            with Image.open(io.BytesIO(data)) as opened:
                return _to_rgb(ImageOps.exif_transpose(opened))
    except (MemoryError, _UnusablePixels):
        raise
    except UnidentifiedImageError:
        raise ValueError(
            f"image of {len(data)} bytes is not a file that Pillow knows; send the bytes of a JPEG or PNG."
        ) from None
    except Image.DecompressionBombError as error:
        sizes = str(error).split(",")[0]
        raise ValueError(f"image is too large to be decoded safely ({sizes}); scale it down first.") from error
    except Exception as error:  # Pillow's decoders raise almost anything on a damaged file
        raise ValueError(f"image cannot be decoded ({error}); save it again as PNG or JPEG.") from error


class _UnusablePixels(ValueError):
    """Pixels without a range that 0 to 255 could stand for."""


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise _UnusablePixels("image has floating-point pixels of unknown range; save it with 8 or 16 bits.")
    if not image.mode.startswith("I"):
        return np.array(image.convert("RGB"))
    values = np.array(image).astype(np.int32)  # mode I;16, or I where an older Pillow reads a 16-bit PNG
    if values.min() < 0 or values.max() > UINT16_MAX:
        raise _UnusablePixels("image has grey values beyond 16 bits; save it with 8 or 16 bits.")
    grey = ((values + 128) // 257).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def scaled_size(height: int, width: int, image_size: int) -> tuple[int, int]:
    """(height, width) with the longer side scaled to ``image_size``: ``ResizeLongestSide.get_preprocess_shape``.

    Raises:
        ValueError: nothing is left of the short side.
    """
    scale = image_size * 1.0 / max(height, width)
    scaled = int(height * scale + 0.5), int(width * scale + 0.5)
    if min(scaled) == 0:
        raise ValueError(
            f"image of {width}x{height} pixels is too narrow: nothing is left of its short side when its long side is "
            f"scaled to {image_size}; crop it into wider pieces."
        )
    return scaled


def encoder_input(image: np.ndarray, image_size: int, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Scale, normalise and pad with zeros: to the bit what ``SamPredictor.set_image`` gives its encoder.

    Args:
        image: (height, width, 3) uint8 RGB.
        image_size: side of the square input.
        mean, std: (3,) float32, by channel in 0 to 255.

    Returns:
        (1, 3, image_size, image_size) float32.
    """
    height, width = scaled_size(image.shape[0], image.shape[1], image_size)
    pixels = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    tensor = np.zeros((1, 3, image_size, image_size), np.float32)
    tensor[0, :, :height, :width] = ((pixels - mean) / std).transpose(2, 0, 1)
    return tensor


class TritonPythonModel:
    """What Triton's python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        values = {name: json.loads(entry["string_value"]) for name, entry in parameters.items()}
        self.image_size = values["image_size"]
        self.mean, self.std = (np.array(values[name], np.float32) for name in ("pixel_mean", "pixel_std"))

    def execute(self, requests: list[Any]) -> list[Any]:
        import triton_python_backend_utils as pb_utils

        responses = []
        for request in requests:
            data = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().tobytes()
            try:
                image = decode_image(data)
                tensor = encoder_input(image, self.image_size, self.mean, self.std)
            except ValueError as error:
                wrong = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=wrong))
            else:
                size = np.array(image.shape[:2], np.int64)
                tensors = [pb_utils.Tensor("preprocessed_image", tensor), pb_utils.Tensor("original_size", size)]
                responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return responses
