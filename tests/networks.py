"""Networks and images the tests share: small enough for two cores, strong enough that a wrong key or row shows."""

from __future__ import annotations

from functools import cache, partial

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import Tensor, nn

from sparsesam_deploy.model.checkpoint import load_nano
from sparsesam_deploy.model.config import SamConfig

SMALL = SamConfig("custom", embed_dim=32, depth=4, num_heads=2, global_blocks=(1, 3))


def stock_encoder(config: SamConfig) -> ImageEncoderViT:
    """Segment Anything's own image encoder of this shape, position tables and all else at their initial values."""
    encoder = ImageEncoderViT(
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=config.global_blocks,
    )
    return encoder.eval()


@cache
def small_encoder(config: SamConfig = SMALL) -> ImageEncoderViT:
    """Random weights of the size a trained network has: sharp attention, MLP updates as large as the stream.

    With the usual std of 0.02 attention would be an average and the MLP a whisper, and a test could not tell which keys
    and rows were used (``test_inputs_tell_variants_apart`` holds this network to it).
    """
    generator = torch.Generator().manual_seed(20)
    encoder = stock_encoder(config)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(1 + 0.2 * noise)
            elif "rel_pos" in name or "pos_embed" in name:
                parameter.copy_(0.4 * noise)
            else:
                parameter.copy_(noise * (1.5 if "qkv" in name else 1.0) / parameter[0].numel() ** 0.5)
    return encoder


@cache
def noise_image(seed: int = 0) -> Tensor:
    """(1, 3, 1024, 1024): coarse blobs under fine noise whose strength varies, so some cells are flat and some not."""
    generator = torch.Generator().manual_seed(seed)
    blobs = F.interpolate(torch.randn(1, 3, 24, 24, generator=generator), size=(1024, 1024), mode="bicubic")
    strength = F.interpolate(torch.rand(1, 1, 12, 12, generator=generator), size=(1024, 1024), mode="bilinear")
    noise = F.interpolate(torch.randn(1, 3, 128, 128, generator=generator), size=(1024, 1024))
    return blobs + 2 * strength * noise


@cache
def nano() -> tuple[Sam, SamConfig]:
    """The trained model that comes with the package."""
    loaded = load_nano()
    return loaded.sam, loaded.config
