"""How much an exported model may differ from its float32 PyTorch reference: the one table of thresholds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """Limits for one precision.

    Attributes:
        block: relative L2 error of one block's update, the block fed with the very input the graph fed it; and of the
            scores by which that block decided, if it did.
        embedding: relative L2 error of the image embeddings against a reference that decides as the graph did; for an
            engine, which does not tell how it decided, that of the median of the 64x64 positions.
        cosine: least cosine similarity of an engine's image embeddings, whatever it decided.
        mask_iou, boundary_iou: least mean over all prompts, against the masks of the reference.
    """

    block: float
    embedding: float
    cosine: float
    mask_iou: float
    boundary_iou: float


# Measured on healthy exports: block 9e-7 / 2e-3 / 1.2e-2, embedding 9e-7 / 1.2e-3 / 1.2e-2. The smallest fault we break
# on purpose makes 2e-4 in its block, as fp32.
TOLERANCES = {
    "fp32": Tolerance(1e-5, 1e-5, cosine=0.999999, mask_iou=0.999, boundary_iou=0.998),
    "fp16": Tolerance(5e-3, 3e-3, cosine=0.9995, mask_iou=0.99, boundary_iou=0.98),
    "bf16": Tolerance(3e-2, 3e-2, cosine=0.995, mask_iou=0.97, boundary_iou=0.95),
}

AS_FP32 = TOLERANCES["fp32"]
"""Limits of a half-precision graph that runs in float32 without its rounding: those of any float32 graph."""
