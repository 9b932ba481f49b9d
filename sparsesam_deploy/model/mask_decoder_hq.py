"""SAM-HQ's mask decoder: SAM's, with a fifth mask drawn on features that also see an early block of the encoder."""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

from ..errors import InvalidInput


def _upscale_by_4(channels: int, hidden: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(channels, hidden, kernel_size=2, stride=2),
        LayerNorm2d(hidden),
        nn.GELU(),
        nn.ConvTranspose2d(hidden, out_channels, kernel_size=2, stride=2),
    )


class MaskDecoderHQ(MaskDecoder):
    """The decoder of "Segment Anything in High Quality" (arXiv 2306.01567, section 3.2; github.com/SysCV/sam-hq).

    Parameter names are those of the authors' checkpoints. Call `predict_masks`: the inherited ``forward`` has no
    argument for the encoder's intermediate embeddings, and fails.

    Args:
        transformer_dim: channels C of the image embedding.
        transformer: SAM's two-way transformer.
        vit_dim: channels of the encoder's blocks.
    """

    def __init__(self, *, transformer_dim: int, transformer: nn.Module, vit_dim: int) -> None:
        super().__init__(transformer_dim=transformer_dim, transformer=transformer)
        quarter, eighth = transformer_dim // 4, transformer_dim // 8
        self.hf_token = nn.Embedding(1, transformer_dim)
        self.hf_mlp = MLP(transformer_dim, transformer_dim, eighth, 3)
        self.compress_vit_feat = _upscale_by_4(vit_dim, transformer_dim, eighth)
        self.embedding_encoder = _upscale_by_4(transformer_dim, quarter, eighth)
        self.embedding_maskfeature = nn.Sequential(
            nn.Conv2d(eighth, quarter, kernel_size=3, padding=1),
            LayerNorm2d(quarter),
            nn.GELU(),
            nn.Conv2d(quarter, eighth, kernel_size=3, padding=1),
        )

    def hq_features(self, image_embeddings: Tensor, interm_embeddings: Tensor) -> Tensor:
        """Fuse the image embedding with the output of the first global block.

        Args:
            image_embeddings: (1, C, 64, 64).
            interm_embeddings: (num_global, 1, 64, 64, vit_dim), the output of every global block.

        Returns:
            (1, C // 8, 256, 256), the same for every prompt of an image.
        """
        early = interm_embeddings[0].permute(0, 3, 1, 2)
        return self.embedding_encoder(image_embeddings) + self.compress_vit_feat(early)

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        interm_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict the masks of N prompts on one image.

        Args:
            image_embeddings: (1, C, 64, 64).
            image_pe: (1, C, 64, 64), the positional encoding of the grid.
            sparse_prompt_embeddings: (N, num_tokens, C), points and boxes.
            dense_prompt_embeddings: (N, C, 64, 64), mask prompts.
            interm_embeddings: (num_global, 1, 64, 64, vit_dim), the output of every global block; only what calls any
                `MaskDecoder` leaves it out.

        Returns:
            Mask logits (N, 5, 256, 256), SAM's single mask, its three multi-masks and the HQ mask; predicted IoU
            (N, 4) of SAM's masks. SAM-HQ answers with the HQ mask, or with its sum with the best of SAM's.

        Raises:
            InvalidInput: no ``interm_embeddings``.
        """
        if interm_embeddings is None:
            raise InvalidInput("SAM-HQ's decoder was given no interm_embeddings; use a SparseSamPredictor.")
        num_prompts = sparse_prompt_embeddings.shape[0]
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight, self.hf_token.weight])
        tokens = torch.cat([output_tokens.expand(num_prompts, -1, -1), sparse_prompt_embeddings], dim=1)

        # Broadcast, where SAM calls repeat_interleave: the number of prompts stays symbolic in an export.
        src = image_embeddings + dense_prompt_embeddings
        decoded, src = self.transformer(src, image_pe.expand(num_prompts, -1, -1, -1), tokens)
        src = src.transpose(1, 2).unflatten(2, image_embeddings.shape[-2:])

        sam_features = self.output_upscaling(src)
        hq_features = self.embedding_maskfeature(sam_features) + self.hq_features(image_embeddings, interm_embeddings)
        iou_token, *mask_tokens, hq_token = decoded[:, : len(output_tokens)].unbind(1)
        kernels = [mlp(token) for mlp, token in zip(self.output_hypernetworks_mlps, mask_tokens, strict=True)]
        masks = torch.cat(
            [
                torch.stack(kernels, dim=1) @ sam_features.flatten(2),
                self.hf_mlp(hq_token).unsqueeze(1) @ hq_features.flatten(2),
            ],
            dim=1,
        )
        return masks.unflatten(2, sam_features.shape[-2:]), self.iou_prediction_head(iou_token)
