"""``config.pbtxt`` as Triton's own protobuf messages: a wrong field name cannot be written. Encoder and decoder.

Rules beyond the schema are those of triton-inference-server/core (``model_config_utils.cc``) and of tensorrt_backend:
with max_batch_size 0 the dimensions are the network's own, above it they leave out the first axis, which must then be
dynamic in the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING

from ..engines.manifest import EngineManifest
from ..errors import InvalidInput
from ..optional import importing
from .options import ServingOptions
from .source import ANY, Network, Platform, TensorSpec

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

DEFAULT_QUEUE_DELAY_US = 2000
GRAPHS_FOR_EVERY_BATCH = 8
BACKENDS = {"tensorrt_plan": ("tensorrt_plan", "tensorrt"), "onnxruntime": ("onnxruntime_onnx", "onnxruntime")}
"""Triton's platform and backend names."""


def schema() -> ModuleType:
    """Triton's ``model_config_pb2``.

    Raises:
        EnvironmentProblem: tritonclient is not installed.
    """
    with importing("tritonclient", "a repository in Triton's configuration schema"):
        from tritonclient.grpc import model_config_pb2
    return model_config_pb2


def encoder_config(
    manifest: EngineManifest, network: Network, options: ServingOptions, plans: dict[str, str]
) -> ModelConfig:
    """Batched as far as its files allow. ``plans``: engine file by compute capability, like ``{"9.0": "sm90.plan"}``.

    Raises:
        InvalidInput: a queue delay is asked for and there are no batches.
    """
    batched = network.batchable
    largest = manifest.batch.max if batched else 0
    config = _network_model(options, "encoder", network, options.platform, plans, largest)
    sizes = sorted({1, manifest.batch.opt, largest}) if batched else [1]
    delay = options.max_queue_delay_us
    if batched:
        config.dynamic_batching.max_queue_delay_microseconds = DEFAULT_QUEUE_DELAY_US if delay is None else delay
    elif delay is not None:
        raise InvalidInput(
            f"--max-queue-delay-us {delay} is for batches, but this encoder takes one image at a time; "
            "build it with --batch 1,4,8 (SAM-HQ's embeddings have no batch axis), or leave the option out."
        )
    if options.cuda_graphs and options.platform == "tensorrt_plan":
        config.optimization.cuda.graphs = True
        for batch in _graph_sizes(largest):
            config.optimization.cuda.graph_spec.add(batch_size=batch)
    for batch in sizes:
        _add_warmup(config, network, batch, batched)
    return config


def _graph_sizes(largest: int) -> list[int]:
    """Batch sizes to capture: every one of few, powers of two and the largest of many; none given for no batch axis."""
    if largest <= GRAPHS_FOR_EVERY_BATCH:
        return list(range(1, largest + 1))
    return sorted({1 << bit for bit in range(largest.bit_length())} | {largest})


def decoder_config(network: Network, options: ServingOptions, plans: dict[str, str]) -> ModelConfig:
    """No batching: its first axes are the prompts of one image, and two images' prompts cannot share an embedding."""
    config = _network_model(options, "decoder", network, options.decoder_platform, plans, 0)
    _add_warmup(config, network, 1, False)
    return config


def _network_model(
    options: ServingOptions, part: str, network: Network, platform: Platform, plans: dict[str, str], largest: int
) -> ModelConfig:
    config = new_model(options, part, _without_batch(network.inputs, largest), _without_batch(network.outputs, largest))
    config.platform, config.backend = BACKENDS[platform]
    config.max_batch_size = largest
    if platform == "tensorrt_plan":
        for capability, file in plans.items():
            config.cc_model_filenames[capability] = file
    else:
        config.default_model_filename = "model.onnx"
    group = config.instance_group.add(count=options.instances)
    group.kind = group.KIND_GPU if options.device == "gpu" else group.KIND_CPU
    group.gpus.extend(options.gpus)
    return config


def new_model(
    options: ServingOptions, part: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> ModelConfig:
    """Name, version policy, inputs and outputs; the ensemble from file to masks is the ``part`` without a name."""
    pb = schema()
    config = pb.ModelConfig(name=f"{options.name}_{part}" if part else options.name)
    config.version_policy.latest.num_versions = 1  # a new version takes over once it is loaded, then the old one goes
    for specs, field in ((inputs, config.input), (outputs, config.output)):
        for spec in specs:
            field.add(name=spec.name, data_type=pb.DataType.Value(spec.data_type), dims=spec.dims)
    for spec, declared in zip(inputs, config.input, strict=True):
        declared.optional = spec.optional
    return config


def _without_batch(specs: tuple[TensorSpec, ...], largest: int) -> tuple[TensorSpec, ...]:
    if not largest:
        return specs
    return tuple(replace(spec, dims=spec.dims[1:]) for spec in specs)


def _add_warmup(config: ModelConfig, network: Network, batch: int, batched: bool) -> None:
    """A request of zeros before the first real one. Triton's random data are random bits: NaN and infinities."""
    sample = config.model_warmup.add(name=f"batch {batch}", batch_size=batch)
    for declared, spec in zip(config.input, network.inputs, strict=True):
        entry = sample.inputs[spec.name]
        entry.data_type, entry.zero_data = declared.data_type, True
        entry.dims.extend(_concrete(spec, batched))


def _concrete(spec: TensorSpec, batched: bool) -> list[int]:
    """Dimensions of a warm-up: one prompt (or image) of two points."""
    dims = list(spec.dims[1:] if batched else spec.dims)
    return [dim if dim != ANY else (1 if axis == 0 else 2) for axis, dim in enumerate(dims)]
