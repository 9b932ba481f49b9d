"""segment_anything's ``SamPredictor`` over any image encoder: a sparse one, one in half precision, an engine."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from torch import Tensor, nn

from ..errors import InvalidInput
from ..ops.geometry import GRID_SIZE
from .config import OUT_CHANNELS
from .device_image import resize_longest_side
from .encoder import SparseSamEncoder
from .image import check_pixels
from .mask_decoder_hq import MaskDecoderHQ


class ImageEncoder(Protocol):
    """What `SparseSamPredictor` asks of an encoder: a function of the image.

    An ``nn.Module`` is given the image in the dtype and on the device that its parameters have at that moment;
    anything else (a function, an engine) in float32 on the device of the SAM. Results may be of any floating-point
    dtype, on any device and in memory that the encoder will write again.
    """

    def __call__(self, image: Tensor, /) -> Tensor | tuple[Tensor, Tensor]:
        """Encode.

        Args:
            image: (B, 3, 1024, 1024), normalised and padded.

        Returns:
            Image embeddings (B, 256, 64, 64). For a SAM-HQ decoder a pair of them and the outputs of the global blocks
            (num_global, B, 64, 64, C), of which the first alone is used; a `SparseSamEncoder` is asked for both.
        """


class SparseSamPredictor(SamPredictor):
    """Drop-in for ``segment_anything.SamPredictor``: ``SparseSamPredictor(loaded.sam, encoder)``.

    Methods, arguments, results and failures are those of ``segment_anything.SamPredictor``; images are prepared by its
    code (tensors to the bit as by it), prompts and masks by ``sam``, whose own image encoder is not called. Neither
    ``sam`` nor ``encoder`` is changed, so any number of predictors can share them. For a half-precision encoder beside
    a float32 ``sam``, use `layers.cast_copy`: ``encoder.half()`` would cast the parameters that it shares with ``sam``.

    With a `MaskDecoderHQ` the results are those of ``segment_anything_hq.SamPredictor``: one mask for each prompt, the
    HQ mask added to SAM's single mask or, with ``multimask_output``, to the one of three with the highest predicted
    IoU, and that IoU.

    Args:
        sam: prompt encoder, mask decoder and pixel statistics; float32.
        encoder: takes the place of ``sam.image_encoder``.
        hq_token_only: answer with the HQ mask alone; SAM-HQ only.

    Raises:
        InvalidInput: ``hq_token_only`` without SAM-HQ.

    Attributes:
        model: ``sam``.
        features: (1, 256, 64, 64), the current image's embedding in the dtype and on the device of the decoder.
        interm_features: (1, 1, 64, 64, C), the first global block's output, likewise; None unless SAM-HQ.
    """

    interm_features: Tensor | None

    def __init__(self, sam: Sam, encoder: ImageEncoder, *, hq_token_only: bool = False) -> None:
        super().__init__(sam)
        if hq_token_only and not self.hq:
            raise InvalidInput(
                "hq_token_only=True needs a SAM-HQ model; this SAM has no HQ mask, leave the option out."
            )
        self.encoder, self.hq_token_only = encoder, hq_token_only

    @property
    def hq(self) -> bool:
        return isinstance(self.model.mask_decoder, MaskDecoderHQ)

    def set_image(self, image: np.ndarray | Tensor, image_format: str = "RGB") -> None:
        """Encode an image.

        Args:
            image: (height, width, 3) uint8. A tensor is scaled and encoded where it is, with the same answers: one on
                a GPU never visits the host.
            image_format: ``RGB`` or ``BGR``.

        Raises:
            ImageError: a tensor of another type or shape.
        """
        if not isinstance(image, Tensor):
            super().set_image(image, image_format)
            return
        if image_format not in ("RGB", "BGR"):
            raise AssertionError(f"image_format must be in ['RGB', 'BGR'], is {image_format}.")
        size = check_pixels(image, batches=False)
        ordered = image if image_format == self.model.image_format else image.flip(-1)
        self.set_torch_image(resize_longest_side(ordered[None]).to(self.device), size)

    @torch.no_grad()
    def set_torch_image(self, transformed_image: Tensor, original_image_size: tuple[int, ...]) -> None:
        """Encode an image that is scaled already; `set_image` does that and calls this.

        Args:
            transformed_image: (1, 3, H, W), pixel values from 0 to 255 as ``ResizeLongestSide`` leaves them, the longer
                side 1024.
            original_image_size: (height, width) before scaling.

        Raises:
            AssertionError: another shape, as in segment_anything; the image set before stays.
            InvalidInput: the encoder's result is not what `ImageEncoder` says; no image is set then.
        """
        size, shape = self.model.image_encoder.img_size, transformed_image.shape
        if len(shape) != 4 or shape[1] != 3 or max(shape[2:]) != size:
            raise AssertionError(f"set_torch_image input must be BCHW with long side {size}.")
        self.reset_image()
        self.original_size, self.input_size = original_image_size, tuple(shape[-2:])
        self.features, self.interm_features = self._encode(self.model.preprocess(transformed_image))
        self.is_image_set = True

    @torch.no_grad()
    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the masks of N prompts, in pixels of the 1024x1024 input and on the device of ``sam``.

        Args:
            point_coords: (N, P, 2) x, y.
            point_labels: (N, P), 1 for foreground and 0 for background.
            boxes: (N, 4), XYXY.
            mask_input: (N, 1, 256, 256) low-resolution logits of an earlier answer.
            multimask_output: three masks for each prompt; SAM-HQ chooses the best of them.
            return_logits: masks as float32 logits, not as bool.

        Returns:
            Masks (N, M, H, W) at the image's size; predicted IoU (N, M); low-resolution logits (N, M, 256, 256).
            M is 3 with ``multimask_output`` and 1 without; with SAM-HQ always 1.

        Raises:
            RuntimeError: no image is set.
        """
        decoder = self.model.mask_decoder
        if not isinstance(decoder, MaskDecoderHQ) or not self.is_image_set:
            return super().predict_torch(
                point_coords, point_labels, boxes, mask_input, multimask_output, return_logits=return_logits
            )
        points = None if point_coords is None else (point_coords, point_labels)
        sparse, dense = self.model.prompt_encoder(points=points, boxes=boxes, masks=mask_input)
        image_pe = self.model.prompt_encoder.get_dense_pe()
        candidates, iou = decoder.predict_masks(self.features, image_pe, sparse, dense, self.interm_features)
        low_res_masks, iou = self._hq_answer(candidates, iou, multimask_output)
        masks = self.model.postprocess_masks(low_res_masks, self.input_size, self.original_size)
        return masks if return_logits else masks > self.model.mask_threshold, iou, low_res_masks

    def reset_image(self) -> None:
        """Forget the image."""
        super().reset_image()
        self.interm_features = None

    def _encode(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """The encoder's results in the decoder's dtype and on its device, as copies of the predictor's own."""
        image = image.to(*_input_place(self.encoder, self.device))
        result: Tensor | tuple[Tensor, Tensor]
        if self.hq and isinstance(self.encoder, SparseSamEncoder):
            result = self.encoder.encode(image).returned
        else:
            result = self.encoder(image)
        features, interm = result if isinstance(result, (tuple, list)) and len(result) == 2 else (result, None)
        self._check(features, interm, len(image))
        decoder = next(self.model.mask_decoder.parameters())
        return features.to(decoder, copy=True), None if interm is None else interm[:1].to(decoder, copy=True)

    def _check(self, features: object, interm: object, batch: int) -> None:
        grid = (GRID_SIZE, GRID_SIZE)
        if not isinstance(features, Tensor) or features.shape != (batch, OUT_CHANNELS, *grid):
            raise InvalidInput(
                f"the encoder returned {_describe(features)}; return image embeddings of shape "
                f"{(batch, OUT_CHANNELS, *grid)}."
            )
        if not self.hq:
            if interm is not None:
                raise InvalidInput(
                    "the encoder returned intermediate embeddings, which this SAM's decoder has no use for; "
                    "return the image embeddings alone, or give the SAM-HQ model they belong to."
                )
        elif not isinstance(interm, Tensor) or interm.ndim != 5 or interm.shape[1:4] != (batch, *grid):
            raise InvalidInput(
                f"SAM-HQ's decoder needs intermediate embeddings, and the encoder returned {_describe(interm)} for "
                f"them; return (image_embeddings, interm_embeddings), the second of shape (num_global, {batch}, "
                f"{GRID_SIZE}, {GRID_SIZE}, C)."
            )

    def _hq_answer(self, candidates: Tensor, iou: Tensor, multimask_output: bool) -> tuple[Tensor, Tensor]:
        """SAM-HQ's choice from five masks (N, 5, 256, 256) and four IoU (N, 4): (N, 1, 256, 256) and (N, 1)."""
        best = 1 + iou[:, 1:].argmax(1) if multimask_output else iou.new_zeros(len(iou), dtype=torch.long)
        rows = torch.arange(len(iou), device=iou.device)
        hq_mask = candidates[:, -1:]
        masks = hq_mask if self.hq_token_only else candidates[rows, best].unsqueeze(1) + hq_mask
        return masks, iou[rows, best].unsqueeze(1)


def _input_place(encoder: ImageEncoder, default: torch.device) -> tuple[torch.device, torch.dtype]:
    """Where and as what an encoder takes its image."""
    parameters = encoder.parameters() if isinstance(encoder, nn.Module) else ()
    first = next((parameter for parameter in parameters if parameter.is_floating_point()), None)
    return (default, torch.float32) if first is None else (first.device, first.dtype)


def _describe(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
