"""norm2 of a few rows of the residual stream, which every kernel computes anew from x."""

from __future__ import annotations

from ...triton_language import jit, tl


@jit
def normalised(x, weight, bias, epsilon, row, inside, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """norm2 of rows of x in float32; ``row`` and ``inside`` end in an axis of 1, which becomes WIDTH, 0 past CHANNELS.

    The whole row is in registers, so that the variance is that of centred values. The division is exact, because the
    mean of equal values must be that value: its error, normalised, would be noise of size 1.
    """
    channel = tl.arange(0, WIDTH)
    exists = channel < CHANNELS
    values = tl.load(x + row * CHANNELS + channel, mask=inside & exists, other=0.0).to(tl.float32)
    mean = tl.div_rn(tl.sum(values, -1, keep_dims=True), float(CHANNELS))
    centred = tl.where(exists, values - mean, 0.0)
    variance = tl.sum(centred * centred, -1, keep_dims=True) / CHANNELS
    scale = tl.load(weight + channel, mask=exists, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)
    return centred * tl.rsqrt(variance + epsilon) * scale + shift
