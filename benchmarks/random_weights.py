"""Segment Anything models with random weights, in memory and as checkpoints, for what does not depend on training."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import Tensor

from sparsesam_deploy.model.config import FAMILIES, SamConfig
from sparsesam_deploy.model.sam import build_sam, sam_from_tensors


def random_tensor(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A value as a trained network might have it, float32 on the generator's device: no part is silent or drowned.

    Linear and convolution weights keep the variance of their input (std 0.028 at 1280 channels, 0.036 at 768); norms
    scale by about 1; biases and position tables are not zero, which is how they start and what would hide mistakes.
    """
    values = torch.randn(shape, generator=generator, device=generator.device)
    if name.endswith(("positional_encoding_gaussian_matrix", "positional_embedding")):
        return values
    if name.endswith("pos_embed"):
        return 0.2 * values
    if name.endswith(("rel_pos_h", "rel_pos_w", ".bias")):
        return 0.1 * values
    if len(shape) == 1:  # the weight of a norm
        return 1 + 0.1 * values
    return values / math.sqrt(shape[1:].numel())


def random_tensors(family: str | SamConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """An official state dict; for ViT-H in fp32 it takes 2.5 GiB, and nothing else of that size is made."""
    config = FAMILIES[family] if isinstance(family, str) else family
    generator = torch.Generator().manual_seed(seed)
    names = build_sam(config).state_dict()
    return {name: random_tensor(name, like.shape, generator).to(dtype) for name, like in names.items()}


def random_sam(family: str | SamConfig, seed: int = 0) -> Sam:
    """A model of that size in eval mode, fp32 on the CPU, as `load_checkpoint` would give it."""
    config = FAMILIES[family] if isinstance(family, str) else family
    return sam_from_tensors(config, random_tensors(config, seed))


def random_encoder(config: SamConfig, device: torch.device, dtype: torch.dtype, seed: int = 0) -> ImageEncoderViT:
    """Segment Anything's image encoder alone, its weights made on the device where they are used."""
    encoder = build_sam(config).image_encoder  # on the meta device: takes no memory
    generator = torch.Generator(device).manual_seed(seed)
    names = encoder.state_dict()
    tensors = {name: random_tensor(name, like.shape, generator).to(dtype) for name, like in names.items()}
    encoder.load_state_dict(tensors, assign=True)
    return encoder.requires_grad_(False).eval()


def save_random_checkpoint(path: Path, family: str | SamConfig, dtype: torch.dtype = torch.float32) -> None:
    """Write `random_tensors` as safetensors if ``path`` ends so, with ``torch.save`` otherwise."""
    tensors = random_tensors(family, dtype=dtype)
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
