"""Prompt encoder and mask decoder as one function of tensors, free of Python decisions, for every precision."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from ..errors import InvalidInput
from .config import IMAGE_SIZE, SamConfig
from .layers import cast_copy, make_portable
from .mask_decoder_hq import MaskDecoderHQ

PADDING, NEGATIVE, POSITIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = -1, 0, 1, 2, 3
"""SAM's point labels: a box is two points with the last two; prompts without a box end with a padding point."""

LOW_RES = 256


@dataclass(frozen=True)
class Prompts:
    """N prompts on one image in the decoder's input layout, float32; coordinates are pixels of the 1024x1024 input.

    Attributes:
        point_coords: (N, P, 2) x, y.
        point_labels: (N, P), see the labels above.
        mask_input: (N, 1, 256, 256) logits of an earlier answer.
        has_mask_input: (N,) 1 where ``mask_input`` counts.
    """

    point_coords: np.ndarray
    point_labels: np.ndarray
    mask_input: np.ndarray
    has_mask_input: np.ndarray

    @classmethod
    def from_boxes(cls, boxes: np.ndarray) -> Prompts:
        """One prompt for each box (N, 4), XYXY."""
        return cls._without_masks(boxes.reshape(-1, 2, 2), np.tile([[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]], (len(boxes), 1)))

    @classmethod
    def from_points(cls, points: np.ndarray) -> Prompts:
        """One prompt for each foreground point (N, 2), XY, or for each K of them (N, K, 2).

        The padding point that SAM adds where no box is comes last.
        """
        points = points.reshape(len(points), -1, 2)
        labels = np.full(points.shape[:2], POSITIVE)
        return cls._without_masks(
            np.concatenate((points, np.zeros_like(points[:, :1])), 1),
            np.pad(labels, ((0, 0), (0, 1)), constant_values=PADDING),
        )

    @classmethod
    def _without_masks(cls, coords: np.ndarray, labels: np.ndarray) -> Prompts:
        n = len(coords)
        if n == 0:
            raise InvalidInput("no prompt was given; give at least one box or point.")
        masks = np.zeros((n, 1, LOW_RES, LOW_RES), np.float32)
        return cls(coords.astype(np.float32), labels.astype(np.float32), masks, np.zeros(n, np.float32))

    def arrays(self) -> dict[str, np.ndarray]:
        """By the input names of ``decoder.onnx``."""
        return dict(vars(self))

    def tensors(self) -> dict[str, Tensor]:
        """By the argument names of `SamDecoder.forward`."""
        return {name: torch.from_numpy(array) for name, array in vars(self).items()}


class SamDecoder(nn.Module):
    """SAM's (or SAM-HQ's) prompt encoder and mask decoder in ``dtype``; float32 in, float32 out.

    Coordinates are encoded in float32 in every precision: float16 cannot tell neighbouring pixels of 1024 apart after
    the multiplication with the random Fourier matrix. Parameters are copied, ``sam`` stays as it is.
    """

    def __init__(self, sam: Sam, config: SamConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        prompts = copy.deepcopy(sam.prompt_encoder)
        self.hq, self.dtype = config.hq, dtype
        gaussian: Tensor = prompts.pe_layer.get_buffer("positional_encoding_gaussian_matrix")
        self.gaussian = nn.Buffer(gaussian.float())
        self.image_pe = nn.Buffer(prompts.get_dense_pe().to(dtype))
        labels = [prompts.not_a_point_embed, *prompts.point_embeddings]
        self.label_embeddings = nn.Buffer(torch.cat([embedding.weight for embedding in labels]).detach().float())
        self.mask_downscaling = cast_copy(make_portable(prompts.mask_downscaling), dtype)
        self.no_mask_embed = nn.Buffer(prompts.no_mask_embed.weight.detach().reshape(1, -1, 1, 1).to(dtype))
        self.mask_decoder = cast_copy(make_portable(copy.deepcopy(sam.mask_decoder)), dtype)

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """(N, P, 2) pixels and (N, P) labels -> (N, P, 256) float32."""
        phase = (2 * (coords + 0.5) / IMAGE_SIZE - 1) @ self.gaussian * (2 * math.pi)
        encoding = torch.cat((phase.sin(), phase.cos()), -1)
        label = labels.unsqueeze(-1)
        embedding = torch.where(label == PADDING, torch.zeros_like(encoding), encoding)
        for value, weight in enumerate(self.label_embeddings, start=PADDING):
            embedding = embedding + weight * (label == value)
        return embedding

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        interm_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict the masks of N prompts on one image.

        Args:
            image_embeddings: (1, 256, 64, 64).
            point_coords, point_labels, mask_input, has_mask_input: see `Prompts`.
            interm_embeddings: (num_global, 1, 64, 64, C), SAM-HQ only.

        Returns:
            low_res_masks (N, 4, 256, 256) logits: SAM's single mask, then its three multi-masks (SAM-HQ: a fifth, the
            HQ mask); iou_predictions (N, 4).
        """
        sparse = self.embed_points(point_coords, point_labels).to(self.dtype)
        has_mask = has_mask_input.reshape(-1, 1, 1, 1) > 0
        dense = torch.where(has_mask, self.mask_downscaling(mask_input.to(self.dtype)), self.no_mask_embed)
        image = image_embeddings.to(self.dtype)
        if self.hq:
            assert isinstance(self.mask_decoder, MaskDecoderHQ)
            interm = None if interm_embeddings is None else interm_embeddings.to(self.dtype)
            masks, iou = self.mask_decoder.predict_masks(image, self.image_pe, sparse, dense, interm)
        else:
            masks, iou = self._predict(image, sparse, dense)
        return masks.float(), iou.float()

    def _predict(self, image: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """MaskDecoder.predict_masks with broadcasting in place of repeat_interleave, so that N stays symbolic."""
        decoder, num_prompts = self.mask_decoder, sparse.shape[0]
        output_tokens = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))
        tokens = torch.cat((output_tokens.expand(num_prompts, -1, -1), sparse), 1)
        decoded, source = decoder.transformer(image + dense, self.image_pe.expand(num_prompts, -1, -1, -1), tokens)
        upscaled = decoder.output_upscaling(source.transpose(1, 2).unflatten(2, image.shape[-2:]))
        iou_token, *mask_tokens = decoded[:, : len(output_tokens)].unbind(1)
        kernels = [mlp(token) for mlp, token in zip(decoder.output_hypernetworks_mlps, mask_tokens, strict=True)]
        masks = (torch.stack(kernels, 1) @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
        return masks, decoder.iou_prediction_head(iou_token)
