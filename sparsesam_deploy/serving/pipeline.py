"""The models around encoder and decoder, and the ensembles that join them.

``NAME`` goes from an image file to masks. ``NAME_embed`` stops at the embeddings and ``NAME_predict`` begins there: for
many questions about one image, and for embeddings that the application keeps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..engines.manifest import EngineManifest
from .config import decoder_config, encoder_config, new_model
from .options import ServingOptions
from .source import ANY, Network, TensorSpec

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

EVERYTHING, EMBED, PREDICT = "", "embed", "predict"
ENSEMBLES = (EVERYTHING, EMBED, PREDICT)
PYTHON_MODELS = ("image", "prompts", "masks")
"""Files of `serving.models`."""

IMAGE = TensorSpec("image", "TYPE_UINT8", (ANY,))
COORDS = TensorSpec("point_coords", "TYPE_FP32", (ANY, ANY, 2))
LABELS = TensorSpec("point_labels", "TYPE_INT32", (ANY, ANY))
MULTIMASK = TensorSpec("multimask_output", "TYPE_BOOL", (1,), optional=True)
SIZE = TensorSpec("original_size", "TYPE_INT64", (2,))
MASKS = TensorSpec("masks", "TYPE_BOOL", (ANY,) * 4)
MAX_MASK_PIXELS = 1 << 29
"""Of all masks of a request: half of the shared memory that `launch` gives the container, through which masks go, and
one prompt's three masks of the largest image that Pillow decodes."""


def model_set(
    manifest: EngineManifest, encoder: Network, decoder: Network, options: ServingOptions, plans: dict[str, str]
) -> dict[str, ModelConfig]:
    """Every configuration by its part of the name. Arguments and failures as `encoder_config`."""
    kept = {spec.name for spec in encoder.outputs}
    embeddings = [spec for spec in decoder.inputs if spec.name in kept]
    prompts = [replace(spec, name=f"decoder_{spec.name}") for spec in decoder.inputs if spec.name not in kept]
    masks, iou = decoder.outputs
    pixels = replace(encoder.inputs[0], name="preprocessed_image", dims=(1, *encoder.inputs[0].dims[1:]))
    candidates = (replace(masks, name="mask_candidates"), replace(iou, name="iou_candidates"))
    answers = (MASKS, replace(iou, dims=(ANY, ANY)), replace(masks, dims=(ANY, ANY, *masks.dims[2:])))
    asked = (COORDS, LABELS, MULTIMASK)

    image_size = {"image_size": manifest.preprocessing.image_size}
    statistics = {name: getattr(manifest.preprocessing, name) for name in ("pixel_mean", "pixel_std")}
    mask_size, limit = {"mask_size": masks.dims[-1]}, {"max_mask_pixels": MAX_MASK_PIXELS}
    models = {
        "encoder": encoder_config(manifest, encoder, options, plans),
        "decoder": decoder_config(decoder, options, plans),
        "image": _python_model(options, "image", (IMAGE,), (pixels, SIZE), image_size | statistics),
        "prompts": _python_model(options, "prompts", (COORDS, LABELS, SIZE), prompts, image_size | mask_size | limit),
        "masks": _python_model(options, "masks", (*candidates, SIZE, MULTIMASK), answers, image_size | limit),
    }
    embed = {
        "image": _step(models["image"]),
        "encoder": _step(models["encoder"], {encoder.inputs[0].name: pixels.name}),
    }
    predict = {
        "prompts": _step(models["prompts"]),
        "decoder": _step(
            models["decoder"],
            {spec.name: f"decoder_{spec.name}" for spec in decoder.inputs if spec.name not in kept},
            {masks.name: "mask_candidates", iou.name: "iou_candidates"},
        ),
        "masks": _step(models["masks"]),
    }
    models[EMBED] = _ensemble(options, EMBED, (IMAGE,), (*embeddings, SIZE), embed)
    models[PREDICT] = _ensemble(options, PREDICT, (*embeddings, SIZE, *asked), answers, predict)
    models[EVERYTHING] = _ensemble(options, EVERYTHING, (IMAGE, *asked), answers, embed | predict)
    if options.cache_mib:  # not on the encoder: the cache takes no GPU memory, and hashes an image byte by byte
        models[EMBED].response_cache.enable = True
    return models


def _python_model(
    options: ServingOptions,
    part: str,
    inputs: Iterable[TensorSpec],
    outputs: Iterable[TensorSpec],
    parameters: Mapping[str, object],
) -> ModelConfig:
    config = new_model(options, part, tuple(inputs), tuple(outputs))
    config.backend = "python"
    group = config.instance_group.add(count=options.cpu_workers)
    group.kind = group.KIND_CPU
    for name, value in parameters.items():
        config.parameters[name].string_value = json.dumps(value)
    return config


Step = tuple[dict[str, str], dict[str, str]]
NONE: Mapping[str, str] = {}


def _step(config: ModelConfig, inputs: Mapping[str, str] = NONE, outputs: Mapping[str, str] = NONE) -> Step:
    """The ensemble's tensor for each of the model's inputs and outputs: of the same name, unless another is given."""
    return (
        {tensor.name: inputs.get(tensor.name, tensor.name) for tensor in config.input},
        {tensor.name: outputs.get(tensor.name, tensor.name) for tensor in config.output},
    )


def _ensemble(
    options: ServingOptions,
    part: str,
    inputs: Iterable[TensorSpec],
    outputs: Iterable[TensorSpec],
    steps: Mapping[str, Step],
) -> ModelConfig:
    config = new_model(options, part, tuple(inputs), tuple(outputs))
    config.platform = "ensemble"
    for name, (taken, given) in steps.items():
        step = config.ensemble_scheduling.step.add(model_name=f"{options.name}_{name}", model_version=-1)
        step.input_map.update(taken)
        step.output_map.update(given)
    return config
