"""What Segment Anything makes of a low-resolution mask, in float64, and how far float32 may be from that."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import maximum_filter
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import nn

IMAGE_SIZE = 1024
UNIT = 2.0**-24  # a float32 operation is off by at most this share of its result


class ImageSize(nn.Module):
    """Stands where SAM's image encoder is: all that scaling a mask asks of it."""

    img_size = IMAGE_SIZE


def by_sam(low_res: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One mask by ``Sam.postprocess_masks`` in float64, and the largest error of an implementation in float32.

    SAM's own float32 is no oracle: of the position from which a pixel is taken, ``(index + 0.5) * scale - 0.5``, torch
    fuses the multiplication and the subtraction on processors that can, and rounds twice on others. The error allowed
    here covers both. It is the sum of

    - the positions': three roundings (scale, product, difference), each of at most ``UNIT`` of the position, times the
      steepest slope near it, along each axis. From the mask to the encoder's input the scale is a quarter, and nothing
      is rounded; from there to the image it is;
    - the values': below 20 roundings on the way, of sums of logits with weights that are positive and sum to 1.

    Args:
        low_res: (256, 256) float32 logits.
        size: (height, width) of the image.

    Returns:
        Logits and the error allowed at each of them, (height, width) float64 both.
    """
    inside = ResizeLongestSide.get_preprocess_shape(*size, IMAGE_SIZE)
    logits = torch.from_numpy(low_res).double()[None, None]
    sam = Sam(ImageSize(), nn.Identity(), nn.Identity())
    in_input = sam.postprocess_masks(logits, inside, inside)[0, 0].numpy()  # only cropped: it has its size already
    positions = [(np.arange(new) + 0.5) * old / new for old, new in zip(inside, size, strict=True)]
    near = np.ix_(*(position.astype(int) for position in positions))
    allowed = np.full(size, 20 * UNIT * float(np.abs(low_res).max()))
    for axis, position in enumerate(np.ix_(*positions)):
        slope = np.abs(np.diff(in_input, axis=axis, append=in_input.take([-1], axis)))
        allowed += 3 * UNIT * position * maximum_filter(slope, 5)[near]
    return sam.postprocess_masks(logits, inside, size)[0, 0].numpy(), allowed
