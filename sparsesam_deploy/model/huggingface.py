"""From the tensor names of Hugging Face's ``SamModel`` and ``SamHQModel`` to the official ones."""

from __future__ import annotations

import re

ANCHOR = "vision_encoder.patch_embed.projection.weight"
"""A tensor that every Hugging Face SAM has under this name, and nothing else does."""

_POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"

# Every rule is tried once, in this order. What a rule does not name is called the same on both sides.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # One matrix under two names, and a file may hold either or both.
        (r"^(shared_image_embedding|prompt_encoder\.shared_embedding)\.positional_embedding$", _POSITIONS),
        (r"^vision_encoder\.", "image_encoder."),
        (r"^image_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
        (r"^image_encoder\.layers\.", "image_encoder.blocks."),
        (r"^image_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
        (r"^image_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
        (r"^image_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
        (r"^image_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
        (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
        (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
        (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
        (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
        (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
        (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
        (r"^mask_decoder\.hq_token\.", "mask_decoder.hf_token."),
        (r"^mask_decoder\.hq_mask_mlp\.", "mask_decoder.hf_mlp."),
        # An MLP head is proj_in, layers.0, proj_out there, and layers.0, .1, .2 here.
        (r"(_mlps\.\d+|_head|\.hf_mlp)\.layers\.0\.", r"\1.layers.1."),
        (r"\.proj_in\.", ".layers.0."),
        (r"\.proj_out\.", ".layers.2."),
        (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
        (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
        (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
        (r"^mask_decoder\.compress_vit_", "mask_decoder.compress_vit_feat."),
        (r"^mask_decoder\.encoder_", "mask_decoder.embedding_encoder."),
        (r"^mask_decoder\.mask_(?=conv|norm)", "mask_decoder.embedding_maskfeature."),
        (r"(_feat|_encoder|_maskfeature)\.conv1\.", r"\1.0."),
        (r"(_feat|_encoder|_maskfeature)\.norm\.", r"\1.1."),
        (r"(_feat|_encoder|_maskfeature)\.conv2\.", r"\1.3."),
        (r"\.layer_norm(?=\d|_final)", ".norm"),
    )
)


def official_name(name: str) -> str:
    """The name that ``segment_anything`` (or SAM-HQ) gives to the tensor Hugging Face calls ``name``."""
    for pattern, replacement in _RULES:
        name = pattern.sub(replacement, name)
    return name
