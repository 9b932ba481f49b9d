"""How much work an encoder is, as shares of the dense one, counted from its modules."""

from __future__ import annotations

from dataclasses import dataclass

from segment_anything.modeling import ImageEncoderViT

from ...model.config import DENSE, SamConfig, SparsityConfig
from ...model.encoder import SparseBlock, SparseSamEncoder
from ..report.records import Cost

MLP_RATIO = 4
HALF = 2
"""Bytes of a half-precision number."""


@dataclass(frozen=True)
class Work:
    """Multiplications in linear layers and in attention, and bytes moved; of a block or of all of them."""

    gemm: float = 0.0
    attention: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.gemm + other.gemm, self.attention + other.attention, self.bytes + other.bytes)

    def as_share_of(self, dense: Work) -> Cost:
        return Cost(
            gemm=self.gemm / dense.gemm,
            flops=(self.gemm + self.attention) / (dense.gemm + dense.attention),
            bytes=self.bytes / dense.bytes,
        )


def attention_work(block: SparseBlock, config: SamConfig) -> Work:
    """The attention half of ``block`` on one image: qkv, scores, weighted values, proj."""
    attention, channels, num_tokens = block.attention, config.embed_dim, config.num_tokens
    rows = attention.row_share * num_tokens
    slots = attention.members.numel() if attention.windowed else num_tokens
    pairs = attention.effective_density * slots * attention.num_tokens
    moved = rows * (1 + 3) + 3 * num_tokens + num_tokens + rows * (1 + 1) + 2 * num_tokens
    if attention.row_share < 1:  # each token's row is written out before attention, and read back to be averaged
        moved += 3 * num_tokens + rows * 3 + num_tokens
    return Work(
        gemm=4 * channels * channels * rows,
        attention=2 * pairs * channels,
        bytes=HALF * channels * (4 * channels + moved),
    )


def mlp_work(block: SparseBlock, config: SamConfig) -> Work:
    """The MLP half of ``block`` on one image: fc1 and fc2 on the rows that go through them."""
    channels, num_tokens = config.embed_dim, config.num_tokens
    rows = block.mlp.mlp_rows * num_tokens
    weights = 2 * MLP_RATIO * channels * channels
    moved = rows * (1 + MLP_RATIO + MLP_RATIO + 1) + 2 * num_tokens
    return Work(gemm=weights * rows, bytes=HALF * (weights + channels * moved))


def encoder_work(encoder: SparseSamEncoder) -> Work:
    """All blocks; patch embedding and neck, the same in every variant, are left out."""
    parts = [part(block, encoder.config) for block in encoder.blocks for part in (attention_work, mlp_work)]
    return sum(parts, Work())


def cost_of(encoder: SparseSamEncoder, dense: SparseSamEncoder) -> Cost:
    """The cost of ``encoder`` as shares of that of ``dense``."""
    return encoder_work(encoder).as_share_of(encoder_work(dense))


def cost_of_choice(image_encoder: ImageEncoderViT, config: SamConfig, sparsity: SparsityConfig) -> Cost:
    """The cost of thinning ``image_encoder`` by ``sparsity``."""
    encoders = (SparseSamEncoder(image_encoder, config, choice) for choice in (sparsity, DENSE))
    return cost_of(*encoders)
