"""The SparseSAM image encoder in plain torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import Block, ImageEncoderViT
from torch import Tensor, nn

from ..ops.backend import Backend
from . import order
from .attention import ImageState, SparseAttention
from .config import BlockPlan, Gelu, SamConfig, SparsityConfig
from .layers import as_layer_norm, convolve
from .mlp import DenseMlp, RoutedMlp
from .outputs import EncoderOutputs
from .shared_attention import SharedAttention


class SparseBlock(nn.Module):
    """One transformer block on the Z-ordered stream."""

    attention: SparseAttention | SharedAttention
    mlp: DenseMlp

    def __init__(self, block: Block, plan: BlockPlan, sparsity: SparsityConfig, gelu: Gelu, backend: Backend) -> None:
        super().__init__()
        assert isinstance(block.norm1, nn.LayerNorm) and isinstance(block.norm2, nn.LayerNorm)
        self.norm = block.norm1
        shared = plan.row_density < 1
        self.attention = (SharedAttention if shared else SparseAttention)(block.attn, plan, sparsity, backend)
        if plan.mlp_density < 1:
            self.mlp = RoutedMlp(block.norm2, block.mlp, gelu, plan, sparsity, backend)
        else:
            self.mlp = DenseMlp(block.norm2, block.mlp, gelu)

    @property
    def decision_names(self) -> tuple[str, ...]:
        """What this block decides by the image, by its names in ``ImageState`` and in order."""
        ranking = (self.attention.ranking_name,) if self.attention.makes_ranking else ()
        return (*ranking, *(half.decision_name for half in self.routed_halves))

    @property
    def routed_halves(self) -> list[SharedAttention | RoutedMlp]:
        """The halves that choose their rows by the image, in order."""
        return [half for half in (self.attention, self.mlp) if isinstance(half, (SharedAttention, RoutedMlp))]

    def attend(self, x: Tensor, state: ImageState) -> Tensor:
        """The attention half: (B, N, C) -> (B, N, C); reads and fills ``state``."""
        if isinstance(self.attention, SharedAttention):
            return self.attention(x, self.norm, state)
        return x + self.attention(self.norm(x), state)

    def forward(self, x: Tensor, state: ImageState) -> Tensor:
        """(B, N, C) -> (B, N, C); reads and fills ``state``."""
        return self.mlp(self.attend(x, state), state)


class SparseSamEncoder(nn.Module):
    """SparseSAM's image encoder; equal to segment_anything's ``ImageEncoderViT`` at density 1.

    The residual stream is permuted into Z-order once after the position embedding and restored once before the neck.
    Parameters are shared with ``image_encoder``, not copied.

    Args:
        image_encoder: a trained encoder on the 64x64 grid.
        config: its shape.
        sparsity: which share of it to compute.
        gelu: ``erf`` as SAM was trained, or the cheaper ``tanh`` approximation.
        backend: what computes the two custom operators, see `Backend`.

    Raises:
        DensityError: a density leaves nothing to compute, or lists another number of blocks.
    """

    perm: Tensor
    inv_perm: Tensor

    def __init__(
        self,
        image_encoder: ImageEncoderViT,
        config: SamConfig,
        sparsity: SparsityConfig,
        gelu: Gelu = "erf",
        backend: Backend = "reference",
    ) -> None:
        super().__init__()
        self.config, self.sparsity, self.gelu, self.backend = config, sparsity, gelu, backend
        assert image_encoder.pos_embed is not None
        self.patch_embed = image_encoder.patch_embed.proj
        self.pos_embed = image_encoder.pos_embed
        # Casts: torch's lists do not say what they hold.
        stock = cast("Iterable[Block]", image_encoder.blocks)
        pairs = zip(stock, sparsity.plan(config), strict=True)
        blocks = (SparseBlock(block, plan, sparsity, gelu, backend) for block, plan in pairs)
        self.blocks = cast("Sequence[SparseBlock]", nn.ModuleList(blocks))
        self.neck = Neck(image_encoder.neck)
        perm = order.z_order(config.grid_size)
        self.register_buffer("perm", torch.tensor(perm), persistent=False)
        self.register_buffer("inv_perm", torch.tensor(order.inverse(perm)), persistent=False)

    @property
    def decision_names(self) -> tuple[str, ...]:
        """What ranking and routing decide in a forward pass, by its names in ``ImageState`` and in order."""
        return tuple(name for block in self.blocks for name in block.decision_names)

    @property
    def routed_mlps(self) -> list[RoutedMlp]:
        return [block.mlp for block in self.blocks if isinstance(block.mlp, RoutedMlp)]

    @property
    def effective_density(self) -> dict[str, float]:
        """(query, key) pairs computed / all pairs by kind of attention; rows computed / all rows over all MLPs.

        Where windowed blocks share rows, ``windowed_rows`` is the same for their qkv and proj.
        """
        shares_rows = any(isinstance(block.attention, SharedAttention) for block in self.blocks)
        kinds: dict[str, list[float]] = {"global_attention": [], "windowed_attention": [], "mlp": []}
        for block in self.blocks:
            kind = "windowed_attention" if block.attention.windowed else "global_attention"
            kinds[kind].append(block.attention.effective_density)
            kinds["mlp"].append(block.mlp.mlp_rows)
            if block.attention.windowed and shares_rows:
                kinds.setdefault("windowed_rows", []).append(block.attention.row_share)
        return {kind: round(sum(values) / len(values), 6) for kind, values in kinds.items() if values}

    def embed(self, image: Tensor) -> Tensor:
        """Image (B, 3, 1024, 1024), normalised -> the Z-ordered stream (B, 4096, C)."""
        tokens = convolve(self.patch_embed, image).flatten(2).transpose(1, 2) + self.pos_embed.flatten(1, 2)
        return tokens.index_select(1, self.perm)

    def streams(self, image: Tensor, state: ImageState | None = None) -> Iterator[Tensor]:
        """The stream after the embedding and after each block: depth + 1 tensors (B, 4096, C) in Z-order.

        ``state`` receives what is decided on the way; what it already holds is followed.
        """
        state = ImageState() if state is None else state
        x = self.embed(image)
        yield x
        for block in self.blocks:
            x = block(x, state)
            yield x

    def finish(self, stream: Tensor) -> Tensor:
        """The last block's stream (B, 4096, C) -> image embeddings (B, 256, 64, 64)."""
        return self.neck(self.to_grid(stream))

    def to_grid(self, stream: Tensor) -> Tensor:
        """Z-ordered stream (B, 4096, C) -> raster grid (B, 64, 64, C)."""
        return stream.index_select(1, self.inv_perm).unflatten(1, (self.config.grid_size,) * 2)

    def outputs_of(self, streams: Iterable[Tensor]) -> EncoderOutputs[Tensor]:
        """The outputs, given the stream after the embedding and after each block; only what is needed of it is kept."""
        grids = []
        for index, stream in enumerate(streams, start=-1):
            if self.config.hq and index in self.config.global_blocks:
                grids.append(self.to_grid(stream))
        return EncoderOutputs(self.finish(stream), torch.stack(grids) if grids else None)

    def encode(self, image: Tensor) -> EncoderOutputs[Tensor]:
        """Image (B, 3, 1024, 1024), normalised and padded, in the parameters' dtype -> its outputs."""
        return self.outputs_of(self.streams(image))

    def forward(self, image: Tensor) -> Tensor:
        """Encode.

        Args:
            image: (B, 3, 1024, 1024) normalised and padded, in the parameters' dtype.

        Returns:
            (B, 256, 64, 64) image embeddings.
        """
        return self.finish(deque(self.streams(image), maxlen=1).pop())


class Neck(nn.Module):
    """SAM's neck on a channels-last grid, where LayerNorm2d is an ordinary LayerNorm."""

    def __init__(self, neck: nn.Sequential) -> None:
        super().__init__()
        layers = cast("tuple[nn.Conv2d, LayerNorm2d, nn.Conv2d, LayerNorm2d]", tuple(neck))
        self.conv1, norm1, self.conv2, norm2 = layers
        self.norm1, self.norm2 = as_layer_norm(norm1), as_layer_norm(norm2)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, 256, H, W)."""
        x = self.norm1(F.linear(grid, self.conv1.weight.flatten(1)))
        # Contiguous because torch's CPU convolution is six times less exact on channels-last memory.
        x = self.norm2(convolve(self.conv2, x.permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1))
        return x.permute(0, 3, 1, 2)
