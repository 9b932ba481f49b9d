"""SAM's resizing of images on the device where they are: Pillow's bilinear filter to the bit, in torch's integers.

Pillow (``src/libImaging/Resample.c``) filters along one axis, rounds to 8 bits, then along the other. A pixel is the
sum of its neighbours times weights in fixed point, 22 bits behind the point; a pass that changes no size is left out.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import PIL.Image
import torch
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from ..errors import EnvironmentProblem
from .config import IMAGE_SIZE

PRECISION_BITS = 32 - 8 - 2  # what Pillow's 32-bit sums of 8-bit pixels leave
PILLOW = tuple(int(part) for part in PIL.__version__.split(".")[:2])


def resize_longest_side(images: Tensor) -> Tensor:
    """Scale images so that their longer side is 1024, to the bit as ``ResizeLongestSide.apply_image`` does.

    Args:
        images: (B, height, width, 3) uint8 on any device.

    Returns:
        (B, 3, new_height, new_width) uint8 on that device.

    Raises:
        EnvironmentProblem: the installed Pillow resizes in another way than those known here.
    """
    _check_pillow()
    _, height, width, _ = images.shape
    new_size = ResizeLongestSide.get_preprocess_shape(height, width, IMAGE_SIZE)
    return resize(images, *new_size).permute(0, 3, 1, 2).contiguous()


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """``PIL.Image.resize`` with its bilinear filter: (B, h, w, C) uint8 -> (B, height, width, C) uint8."""
    passes = [(2, width), (1, height)]
    if _vertical_first(images.shape[1], images.shape[2], height, width):
        passes.reverse()
    for dim, size in passes:
        images = _resample(images, dim, size)
    return images


def _vertical_first(old_height: int, old_width: int, height: int, width: int) -> bool:
    """The order of the passes, which decides what is rounded on the way: Pillow pull requests 9524 and 9549."""
    if height >= old_height or PILLOW < (12, 2):
        return False
    if PILLOW < (13, 0):
        return old_height > 100 * old_width
    return old_height - height > 2 * (old_width - width)


@lru_cache(maxsize=1)
def _check_pillow() -> None:
    """Compare with the installed Pillow on images that tell its orders of passes apart, once."""
    pixels = np.random.default_rng(0).integers(0, 2, (440, 60), dtype=np.uint8) * 255
    for old_height, old_width, height, width in ((60, 30, 30, 15), (60, 31, 30, 20), (440, 4, 20, 3), (30, 60, 41, 50)):
        image = np.ascontiguousarray(pixels[:old_height, :old_width])
        expected = np.asarray(PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BILINEAR))
        found = resize(torch.from_numpy(image)[None, :, :, None], height, width)
        if not np.array_equal(found[0, :, :, 0].numpy(), expected):
            raise EnvironmentProblem(
                f"Pillow {PIL.__version__} resizes in a way that is unknown here; give images as numpy arrays, or "
                "pip install 'pillow<14'."
            )


def _resample(images: Tensor, dim: int, size: int) -> Tensor:
    """One pass of Pillow's over ``dim``, uint8 to uint8."""
    if images.shape[dim] == size:
        return images
    indices, weights = _taps_in_this_stream(images.shape[dim], size, images.device)
    columns = [1] * images.ndim
    columns[dim] = size
    shape = list(images.shape)
    shape[dim] = size
    # Never beyond 32 bits, nor 255 after the shift: the weights of a pixel are not negative and sum to 1.
    sums = torch.full(shape, 1 << (PRECISION_BITS - 1), dtype=torch.int32, device=images.device)
    for index, weight in zip(indices, weights, strict=True):
        sums += images.index_select(dim, index).int() * weight.view(columns)
    return (sums >> PRECISION_BITS).to(torch.uint8)


def _taps_in_this_stream(old: int, new: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`_taps`, whose memory stays until the current stream is done with it: the cache may drop them before."""
    found = _taps(old, new, device)
    if device.type == "cuda":
        for tensor in found:
            tensor.record_stream(torch.cuda.current_stream(device))
    return found


@lru_cache(maxsize=16)  # images of one source have one size
def _taps(old: int, new: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Neighbours of each new pixel and their weights, (taps, new) int32 each: ``precompute_coeffs`` of Resample.c.

    In float64 and in its order of operations, sums included, so that the weights round as Pillow's do.
    """
    scale = old / new
    support = max(scale, 1.0)  # half the width of the filter, which is wider where pixels are merged
    center = (np.arange(new) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    count = np.minimum((center + support + 0.5).astype(np.int64), old) - first
    tap = np.arange(count.max())[:, None]
    weights = np.maximum(1.0 - np.abs((tap + first - center + 0.5) * (1.0 / support)), 0.0)
    weights[tap >= count] = 0.0
    total = np.zeros(new)
    for row in weights:
        total += row
    fixed = (0.5 + weights / total * (1 << PRECISION_BITS)).astype(np.int32)
    indices = np.minimum(first + tap, old - 1).astype(np.int32)
    return torch.from_numpy(indices).to(device), torch.from_numpy(fixed).to(device)
