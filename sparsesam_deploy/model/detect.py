"""What kind of Segment Anything model a set of tensors is, from their names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError
from ..ops.geometry import WINDOW_SIZE
from .config import FAMILIES, SamConfig

PATCH_EMBED = "image_encoder.patch_embed.proj.weight"
HQ_TOKEN = "mask_decoder.hf_token.weight"

_BLOCK = re.compile(r"image_encoder\.blocks\.(\d+)\.")
_DECODER_MLP = "mask_decoder.transformer.layers.0.mlp.lin1.weight"
_WINDOW_TABLE = (2 * WINDOW_SIZE - 1, 2 * WINDOW_SIZE - 1)


def detect_config(tensors: Mapping[str, Tensor], path: Path) -> SamConfig:
    """Read the configuration off the tensors; only their shapes are looked at.

    Args:
        tensors: by official name, relative-position tables and position embedding of any length.
        path: the file they come from, for error messages.

    Returns:
        A known family's configuration, or one of family ``custom``.

    Raises:
        CheckpointError: a tensor that tells the architecture is missing, empty or of the wrong rank, the head size does
            not divide the width, or windowed blocks cannot be told from global ones.
    """

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in tensors:
            raise CheckpointError(f"checkpoint {path} lacks {name}; give a complete Segment Anything checkpoint.")
        if tensors[name].ndim != rank or 0 in tensors[name].shape:
            raise CheckpointError(
                f"checkpoint {path} has {name} of shape {tuple(tensors[name].shape)}, not of rank {rank}; "
                "give a Segment Anything checkpoint with a ViT encoder."
            )
        return tuple(tensors[name].shape)

    embed_dim = shape(PATCH_EMBED, 4)[0]
    depth = len({found[1] for name in tensors if (found := _BLOCK.match(name))})
    blocks = [f"image_encoder.blocks.{index}.attn" for index in range(depth)]
    tables = [(shape(f"{block}.rel_pos_h", 2)[0], shape(f"{block}.rel_pos_w", 2)[0]) for block in blocks]
    head_dim = shape("image_encoder.blocks.0.attn.rel_pos_h", 2)[1]
    if embed_dim % head_dim:
        raise CheckpointError(
            f"checkpoint {path} has {embed_dim} channels in heads of {head_dim}, which does not divide; "
            "give a checkpoint whose image_encoder belongs together."
        )
    config = SamConfig(
        family="custom",
        embed_dim=embed_dim,
        depth=depth,
        num_heads=embed_dim // head_dim,
        global_blocks=_global_blocks(tables),
        decoder_mlp_dim=shape(_DECODER_MLP, 2)[0],
        hq=HQ_TOKEN in tensors,
    )
    return _with_family(config, path)


def _global_blocks(tables: list[tuple[int, int]]) -> tuple[int, ...]:
    """Blocks whose table is not the windowed one: the table for 14x14 windows, or else the shortest there is."""
    windowed = _WINDOW_TABLE if _WINDOW_TABLE in tables else min(tables, default=_WINDOW_TABLE)
    return tuple(index for index, table in enumerate(tables) if table != windowed)


def _with_family(config: SamConfig, path: Path) -> SamConfig:
    for family in FAMILIES.values():
        # A fine-tune on 224x224 images has a 14x14 grid, where all tables are alike: then the family tells the blocks.
        global_blocks = config.global_blocks or family.global_blocks
        if replace(config, family=family.family, global_blocks=global_blocks, hq=family.hq) == family:
            return replace(family, hq=config.hq)
    if not config.global_blocks:
        raise CheckpointError(
            f"checkpoint {path} has relative-position tables of one length in all {config.depth} blocks, which does "
            "not tell windowed blocks from global ones; resize the global blocks' rel_pos_h and rel_pos_w to 127 rows."
        )
    return config
