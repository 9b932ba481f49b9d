"""Image files to SAM's input tensor, and SAM's low-resolution masks back to the image's size."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from torch.nn import functional as F

from ..errors import ImageError
from .config import IMAGE_SIZE, PIXEL_MEAN, PIXEL_STD
from .device_image import resize_longest_side

_UINT16_MAX = 65535


@dataclass(frozen=True, eq=False)
class Preprocessed:
    """An encoder input: ``tensor`` (1, 3, 1024, 1024) fp32, and the (height, width) before and after scaling."""

    tensor: Tensor
    original_size: tuple[int, int]
    input_size: tuple[int, int]


def read_image(path: Path) -> np.ndarray:
    """Read any image file that Pillow opens, upright, as (height, width, 3) uint8 RGB.

    Alpha is dropped, not composited, and palettes are looked up: what ``Image.convert("RGB")`` gives. 16-bit grey is
    divided by 257 and rounded, so that 65535 becomes 255. The EXIF orientation is applied.

    Raises:
        ImageError: the file cannot be read as an image, its pixels have no fixed range (floating point, 32 bits), or it
            has more pixels than Pillow's hard limit (2 * ``PIL.Image.MAX_IMAGE_PIXELS``, 179 million as it ships),
            which is found out from the header, without decoding.
    """
    try:
        with warnings.catch_warnings():
            # Damaged metadata, and sizes from half of Pillow's limit on; above the limit it raises.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return _to_rgb(ImageOps.exif_transpose(image), path)
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        sizes = str(error).split(",")[0]
        raise ImageError(f"image {path} is too large to be decoded safely ({sizes}); scale it down first.") from error
    except FileNotFoundError:
        raise ImageError(f"image {path} does not exist; check the path.") from None
    except IsADirectoryError:
        raise ImageError(f"image {path} is a folder; name one image file.") from None
    except PermissionError:
        raise ImageError(f"image {path} cannot be opened: permission denied; check its permissions.") from None
    except UnidentifiedImageError:
        raise ImageError(f"image {path} is not an image that Pillow knows; convert it to PNG or JPEG.") from None
    except Exception as error:  # Pillow's decoders raise almost anything on a damaged file
        raise ImageError(f"image {path} cannot be decoded ({error}); save it again as PNG or JPEG.") from error


def _to_rgb(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode == "F":
        raise ImageError(f"image {path} has floating-point pixels of unknown range; save it with 8 or 16 bits.")
    if not image.mode.startswith("I"):
        return np.array(image.convert("RGB"))
    values = np.array(image).astype(np.int32)  # mode I;16, or I where an older Pillow reads a 16-bit PNG
    if values.min() < 0 or values.max() > _UINT16_MAX:
        raise ImageError(f"image {path} has grey values beyond 16 bits; save it with 8 or 16 bits.")
    grey = ((values + 128) // 257).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def preprocess(image: np.ndarray | Tensor) -> Preprocessed:
    """Scale the longer side to 1024, normalise, pad with zeros: to the bit what ``SamPredictor.set_image`` does.

    Args:
        image: (height, width, 3) uint8 RGB. A tensor stays on its device, and may be a batch of images of one size,
            (B, height, width, 3).

    Returns:
        The encoder's input; for a batch its tensor is (B, 3, 1024, 1024).

    Raises:
        ImageError: ``image`` is not of that type and shape, or is so narrow that scaling leaves nothing of its short
            side.
    """
    height, width = check_pixels(image, batches=isinstance(image, Tensor))
    if isinstance(image, Tensor):
        scaled = resize_longest_side(image if image.ndim == 4 else image[None])
    else:
        scaled = torch.as_tensor(ResizeLongestSide(IMAGE_SIZE).apply_image(image)).permute(2, 0, 1).contiguous()[None]
    mean, std = (torch.tensor(values, device=scaled.device).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    input_height, input_width = scaled.shape[-2:]
    tensor = F.pad((scaled - mean) / std, (0, IMAGE_SIZE - input_width, 0, IMAGE_SIZE - input_height))
    return Preprocessed(tensor, (height, width), (input_height, input_width))


def check_pixels(image: np.ndarray | Tensor, batches: bool) -> tuple[int, int]:
    """The (height, width) of an image (height, width, 3) uint8, or of those in a batch; `ImageError` otherwise."""
    dtype, shape = str(image.dtype).removeprefix("torch."), tuple(image.shape)
    if dtype != "uint8" or len(shape) not in (3, 3 + batches) or shape[-1] != 3:
        kind, batch = "tensor" if isinstance(image, Tensor) else "array", " or (B, height, width, 3)" * batches
        raise ImageError(f"image {kind} is {dtype} of shape {shape}; give uint8 of shape (height, width, 3){batch}.")
    height, width = shape[-3:-1]
    if 0 in shape or min(ResizeLongestSide.get_preprocess_shape(height, width, IMAGE_SIZE)) == 0:
        raise ImageError(
            f"image of {width}x{height} pixels is too narrow: nothing is left of its short side when its long side is "
            f"scaled to {IMAGE_SIZE}; crop it into wider pieces."
        )
    return height, width


def upscale_masks(low_res_logits: Tensor, input_size: tuple[int, int], original_size: tuple[int, int]) -> Tensor:
    """Remove the padding and scale to the image's size: ``Sam.postprocess_masks``, without a model.

    Args:
        low_res_logits: (N, M, 256, 256) mask logits.
        input_size: (height, width) of the image inside the encoder's input.
        original_size: (height, width) of the image.

    Returns:
        (N, M, height, width) logits.
    """
    padded = F.interpolate(low_res_logits, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)
    cropped = padded[..., : input_size[0], : input_size[1]]
    return F.interpolate(cropped, original_size, mode="bilinear", align_corners=False)
