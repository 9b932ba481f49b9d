"""``decoder.onnx``: prompt encoder and mask decoder; low-resolution logits out, resizing stays with the caller."""

from __future__ import annotations

from pathlib import Path

import torch

from ..model.checkpoint import LoadedSam
from ..model.config import OUT_CHANNELS
from ..model.decoder import LOW_RES, SamDecoder
from .encoder import HQ_OUTPUT, OUTPUT, model_metadata
from .metadata import PREPROCESSING
from .writer import DTYPES, export_module

OUTPUTS = ("low_res_masks", "iou_predictions")


def export_decoder(loaded: LoadedSam, path: Path, dtype: str = "fp32") -> None:
    """Write the decoder: inputs and outputs of `SamDecoder.forward`, any number of prompts and of points in each.

    Raises:
        CheckFailed: onnx.checker refuses the result.
    """
    config, grid = loaded.config, (loaded.config.grid_size,) * 2
    inputs = {OUTPUT: torch.zeros(1, OUT_CHANNELS, *grid)}
    if config.hq:
        inputs[HQ_OUTPUT] = torch.zeros(len(config.global_blocks), 1, *grid, config.embed_dim)
    prompts, points = torch.export.Dim("num_prompts"), torch.export.Dim("num_points")
    prompt_inputs = {
        "point_coords": (torch.zeros(3, 2, 2), {0: prompts, 1: points}),
        "point_labels": (torch.zeros(3, 2), {0: prompts, 1: points}),
        "mask_input": (torch.zeros(3, 1, LOW_RES, LOW_RES), {0: prompts}),
        "has_mask_input": (torch.zeros(3), {0: prompts}),
    }
    export_module(
        lambda: SamDecoder(loaded.sam, config, DTYPES[dtype]),
        inputs | {name: example for name, (example, _) in prompt_inputs.items()},
        OUTPUTS,
        path,
        {"kind": "decoder", **model_metadata(loaded, dtype), "preprocessing": PREPROCESSING},
        {**dict.fromkeys(inputs), **{name: axes for name, (_, axes) in prompt_inputs.items()}},
    )
