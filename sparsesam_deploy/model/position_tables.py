"""Position tables of checkpoints trained on another image size, brought to SAM's 64x64 grid and 14x14 windows."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..ops.geometry import WINDOW_SIZE
from .config import SamConfig

_POS_EMBED = "image_encoder.pos_embed"


def fit_position_tables(tensors: dict[str, Tensor], config: SamConfig) -> None:
    """Interpolate, in place, the relative-position tables and the position embedding that have another size.

    Args:
        tensors: fp32, by official name. Tables are (any length, head_dim), the embedding is (1, any, any, embed_dim).
        config: which blocks are global; all its tables and the embedding are among ``tensors``.
    """
    for index in range(config.depth):
        length = 2 * (config.grid_size if index in config.global_blocks else WINDOW_SIZE) - 1
        for axis in "hw":
            name = f"image_encoder.blocks.{index}.attn.rel_pos_{axis}"
            tensors[name] = resize_rel_pos(tensors[name], length)
    embedding = tensors[_POS_EMBED]
    if embedding.ndim == 4 and embedding.numel():  # what cannot be resized is left to the check of shapes
        tensors[_POS_EMBED] = resize_pos_embed(embedding, config.grid_size)


def resize_rel_pos(table: Tensor, length: int) -> Tensor:
    """Interpolate (any, head_dim) linearly to (length, head_dim), as ``segment_anything``'s ``get_rel_pos`` does."""
    if table.shape[0] == length:
        return table
    return F.interpolate(table.T[None], size=length, mode="linear")[0].T.contiguous()


def resize_pos_embed(embedding: Tensor, grid_size: int) -> Tensor:
    """Interpolate (1, any, any, embed_dim) bilinearly, corners not aligned, to (1, grid_size, grid_size, embed_dim)."""
    if embedding.shape[1:3] == (grid_size, grid_size):
        return embedding
    channels_first = embedding.permute(0, 3, 1, 2)
    resized = F.interpolate(channels_first, size=(grid_size, grid_size), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1).contiguous()
