"""The original Segment Anything network, built from a `SamConfig` instead of from one of three hard-wired names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from ..ops.geometry import WINDOW_SIZE
from .config import OUT_CHANNELS, PATCH_SIZE, SamConfig
from .mask_decoder_hq import MaskDecoderHQ


def build_sam(config: SamConfig) -> Sam:
    """Build the network of ``config`` as ``segment_anything.build_sam`` would, without weights.

    Its parameters live on the meta device: they have names, shapes and dtypes, and take no memory. ``pixel_mean`` and
    ``pixel_std``, which no state dict holds, are real: ``torch.Tensor`` ignores the device context.
    """
    decoder = partial(MaskDecoderHQ, vit_dim=config.embed_dim) if config.hq else MaskDecoder
    with torch.device("meta"):
        sam = Sam(
            image_encoder=ImageEncoderViT(
                img_size=config.image_size,
                patch_size=PATCH_SIZE,
                embed_dim=config.embed_dim,
                depth=config.depth,
                num_heads=config.num_heads,
                out_chans=OUT_CHANNELS,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),  # type: ignore[arg-type]  # declared a class, called only
                use_rel_pos=True,
                window_size=WINDOW_SIZE,
                global_attn_indexes=config.global_blocks,
            ),
            prompt_encoder=PromptEncoder(
                embed_dim=OUT_CHANNELS,
                image_embedding_size=(config.grid_size, config.grid_size),
                input_image_size=(config.image_size, config.image_size),
                mask_in_chans=16,
            ),
            mask_decoder=decoder(
                transformer_dim=OUT_CHANNELS,
                transformer=TwoWayTransformer(
                    depth=2, embedding_dim=OUT_CHANNELS, mlp_dim=config.decoder_mlp_dim, num_heads=8
                ),
            ),
        )
    return sam.eval().requires_grad_(False)


def sam_from_tensors(config: SamConfig, tensors: Mapping[str, Tensor]) -> Sam:
    """Build the network of ``config`` around ``tensors``, which become its parameters without being copied.

    Args:
        tensors: exactly the state dict of `build_sam`, by name, fp32 on the CPU.

    Returns:
        The model in eval mode; no parameter requires a gradient.
    """
    sam = build_sam(config)
    sam.load_state_dict(tensors, strict=True, assign=True)
    return sam
