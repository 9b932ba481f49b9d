"""Masks by the predictors of segment_anything and SAM-HQ, IoU by pycocotools."""

from __future__ import annotations

import numpy as np
import torch
from pycocotools import mask as coco
from segment_anything import SamPredictor

from sparsesam_deploy.accuracy.data.dataset import LabelledImage
from sparsesam_deploy.accuracy.evaluation.prompts import parse_prompt
from sparsesam_deploy.accuracy.evaluation.variants import Encoder


def masks_by(
    predictor: SamPredictor, encode: Encoder, name: str, item: LabelledImage, kind: str, multimask: bool = False
) -> np.ndarray:
    """Of each object (N, height, width) bool: the authors' scaling and decoder around the embedding of ``encode``.

    ``name`` is the image's, ``multimask`` asks a point for the best of three masks.
    """
    scaled = predictor.transform.apply_image(item.pixels)
    outputs = encode(predictor.model.preprocess(torch.as_tensor(scaled).permute(2, 0, 1)[None].float()))
    predictor.features, predictor.is_image_set = torch.from_numpy(outputs.image_embeddings), True
    if outputs.interm_embeddings is not None:
        predictor.interm_features = list(torch.from_numpy(outputs.interm_embeddings))
    predictor.original_size, predictor.input_size = item.pixels.shape[:2], scaled.shape[:2]
    asked, masks = parse_prompt(kind).ask(name, item.objects, item.masks), []
    for index in range(len(item.objects)):
        if asked.boxes is not None:
            found, iou, _ = predictor.predict(box=asked.boxes[index], multimask_output=False)
        else:
            labels = np.ones(len(asked.points[index]))
            found, iou, _ = predictor.predict(asked.points[index], labels, multimask_output=multimask)
        masks.append(found[iou.argmax()])
    return np.stack(masks)


def coco_iou(one: np.ndarray, other: np.ndarray) -> float:
    encoded = [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in (one, other)]
    return float(coco.iou(encoded[:1], encoded[1:], [0])[0, 0])
