"""How much an exported model may differ from its float32 PyTorch reference: the one table of thresholds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """Limits for one precision.

    Attributes:
        block: relative L2 error of one block's update, the block fed with the very input the graph fed it.
        embedding: relative L2 error of the image embeddings, end to end.
        cosine: least cosine similarity of the image embeddings.
        mask_iou, boundary_iou: least mean over all prompts, against the masks of the reference.
    """

    block: float
    embedding: float
    cosine: float
    mask_iou: float
    boundary_iou: float


GRAPH_TOLERANCE = 1e-5
"""Limit on a block's relative L2 error when a graph runs in float32, whatever its precision. Rounding noise is 3e-7;
dropping one of 16 stripes, the smallest fault we know, makes 5e-3 on the nano model."""

TOLERANCES = {
    "fp32": Tolerance(block=GRAPH_TOLERANCE, embedding=1e-5, cosine=0.999999, mask_iou=0.999, boundary_iou=0.998),
    "fp16": Tolerance(block=5e-3, embedding=3e-2, cosine=0.9995, mask_iou=0.99, boundary_iou=0.98),
    "bf16": Tolerance(block=3e-2, embedding=1e-1, cosine=0.995, mask_iou=0.97, boundary_iou=0.95),
}

SELECTION_SLACK = 0.005
"""Share of a routed block's tokens that may be routed differently: rounding decides between groups of equal score. They
are left out of that block's error and counted in the report."""
