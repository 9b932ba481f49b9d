"""Layers of Segment Anything in a form that survives float16, bfloat16 and export."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def as_layer_norm(norm: LayerNorm2d) -> nn.LayerNorm:
    """SAM's LayerNorm2d as a LayerNorm over the last axis, parameters shared.

    Written out as mean and square, LayerNorm2d overflows in float16 (segment-anything issue 540); as a real
    LayerNormalization its statistics are float32 everywhere.
    """
    layer = nn.LayerNorm(norm.weight.numel(), eps=norm.eps, device="meta")
    layer.weight, layer.bias = norm.weight, norm.bias
    return layer


def convolve(conv: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A convolution, in float32 for bfloat16: neither Conv of opset 20 nor TensorRT-RTX's ConvTranspose takes that."""
    if x.dtype != torch.bfloat16:
        return conv(x)
    weight, bias = conv.weight.float(), None if conv.bias is None else conv.bias.float()
    if isinstance(conv, nn.ConvTranspose2d):
        assert not isinstance(conv.padding, str)
        return F.conv_transpose2d(x.float(), weight, bias, stride=conv.stride, padding=conv.padding).to(x.dtype)
    return F.conv2d(x.float(), weight, bias, stride=conv.stride, padding=conv.padding).to(x.dtype)


class ChannelsFirstNorm(nn.Module):
    """LayerNorm2d's stand-in inside a Sequential on (B, C, H, W)."""

    def __init__(self, norm: LayerNorm2d) -> None:
        super().__init__()
        self.norm = as_layer_norm(norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Convolution(nn.Module):
    """A convolution's stand-in inside a Sequential; see `convolve`."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.conv, x)


def make_portable(module: M) -> M:
    """Replace every LayerNorm2d and convolution below ``module``, in place, by the layers of this file."""
    for name, child in module.named_children():
        if isinstance(child, LayerNorm2d):
            setattr(module, name, ChannelsFirstNorm(child))
        elif isinstance(child, (nn.Conv2d, nn.ConvTranspose2d)):
            setattr(module, name, Convolution(child))
        else:
            make_portable(child)
    return module


def cast_copy(module: M, dtype: torch.dtype) -> M:
    """A copy of ``module`` with floating-point parameters in ``dtype``; never a second copy in the old type.

    Parameters already in ``dtype`` and all index tables are shared with the original.
    """
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    memo = {key: t for key, t in tensors.items() if t.dtype == dtype or not t.is_floating_point()}
    for key, tensor in tensors.items():
        if key not in memo:
            cast = tensor.detach().to(dtype)
            memo[key] = nn.Parameter(cast, requires_grad=False) if isinstance(tensor, nn.Parameter) else cast
    return copy.deepcopy(module, memo)
