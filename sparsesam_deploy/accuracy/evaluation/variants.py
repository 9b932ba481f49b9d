"""The encoders that are compared: thinned in PyTorch, or exported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ...artifacts import sha256_file
from ...engines.folder import BuildFolder
from ...errors import CheckFailed, InvalidInput
from ...export.metadata import load_exported, sparsity_of
from ...model.checkpoint import LoadedSam
from ...model.config import DENSE, Density, Gelu, SparsityConfig, choose_sparsity
from ...model.encoder import SparseSamEncoder
from ...model.outputs import EncoderOutputs
from ...ops.backend import Backend
from ...parity.blocks import encode_one
from ...parity.onnx_runner import OnnxRunner
from ...parity.verify import as_array, reference_outputs
from ...runtime.loading import RuntimeName, choose_device, load
from ...runtime.openvino_runtime import OpenVinoRuntime

Outputs = EncoderOutputs[np.ndarray]
"""What an encoder gives for one image, float32."""


class Encoder(Protocol):
    """One image (1, 3, 1024, 1024) to `Outputs`; ``computed_by`` says which program does it, and where."""

    computed_by: str

    def __call__(self, image: torch.Tensor) -> Outputs: ...


@dataclass(frozen=True, eq=False)
class Variant:
    """A way of thinning the encoder: ``shape`` has its modules, to count work by, ``encode`` computes it."""

    name: str
    shape: SparseSamEncoder
    encode: Encoder


class TorchEncoder:
    """`SparseSamEncoder` in float32 on ``device``."""

    def __init__(self, encoder: SparseSamEncoder, device: torch.device) -> None:
        self.encoder, self.device = encoder.to(device).eval(), device
        self.computed_by = f"PyTorch {torch.__version__} fp32, {encoder.gelu} GELU, {encoder.backend}, {device}"

    def __call__(self, image: torch.Tensor) -> Outputs:
        return reference_outputs(self.encoder, image.to(self.device))


class ExportedEncoder:
    """What `sparsesam-export` left in a folder: ``encoder.onnx`` on the CPU, or its engine on a GPU.

    Raises:
        InvalidInput, CheckFailed, EnvironmentProblem: see `OnnxRunner`, `OpenVinoRuntime` and `load`.
    """

    def __init__(self, folder: BuildFolder, runtime: RuntimeName, device: str | None) -> None:
        if runtime == "onnxruntime" and device in (None, "cpu"):
            runner = OnnxRunner(folder.encoder_onnx)
            self._batch = runner.metadata["batch"][0]
            self.computed_by = f"{runner.kernels}, {_named(folder.encoder_onnx)}"
            self._run = lambda image: EncoderOutputs.of_named(encode_one(runner, image.numpy(), self._batch))
        elif runtime == "openvino":
            choose_device(runtime, device)
            on_cpu = OpenVinoRuntime(folder.encoder_onnx)
            self._batch, encode = on_cpu.metadata["batch"][0], on_cpu.new_run()
            self.computed_by = f"{on_cpu.kernels}, {_named(folder.encoder_onnx)}"
            self._run = lambda image: self._first(encode(self._batch_of(image)))
        else:
            engine = load(folder.path, runtime, device)
            self._batch = engine.batch.min
            self.computed_by = f"{engine.kernels}, engine {engine.manifest.engine.sha256[:12]}"
            self._run = lambda image: self._first(engine(self._batch_of(image)))

    def _batch_of(self, image: torch.Tensor) -> torch.Tensor:
        return image.expand(self._batch, -1, -1, -1).contiguous()

    @staticmethod
    def _first(results: torch.Tensor | tuple[torch.Tensor, ...]) -> Outputs:
        return EncoderOutputs.of(results).image(0).map(as_array)

    def __call__(self, image: torch.Tensor) -> Outputs:
        return self._run(image)


def _named(file: Path) -> str:
    return f"{file.name} {sha256_file(file)[:12]}"


def torch_variant(
    name: str,
    loaded: LoadedSam,
    sparsity: SparsityConfig,
    device: torch.device,
    backend: Backend = "reference",
    gelu: Gelu = "erf",
) -> Variant:
    """``sparsity`` of a checkpoint in PyTorch."""
    encoder = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, sparsity, gelu, backend)
    return Variant(name, encoder, TorchEncoder(encoder, device))


def dense_variant(loaded: LoadedSam, device: torch.device, backend: Backend = "reference") -> Variant:
    """What everything is compared with: the checkpoint itself, in PyTorch."""
    return torch_variant("dense", loaded, DENSE, device, backend)


def exported_variant(folder: Path, loaded: LoadedSam, runtime: RuntimeName, device: str | None) -> Variant:
    """The encoder exported into ``folder``, which must come from ``loaded``.

    Raises:
        CheckFailed: it comes from another checkpoint, or is a build that failed its parity check.
    """
    exported = BuildFolder.of(folder)
    if exported.manifest_path.exists():  # an export has none
        exported.read()
    _, metadata = load_exported(exported.encoder_onnx, "encoder")
    if metadata["checkpoint"]["sha256"] != loaded.sha256:
        raise CheckFailed(
            f"{exported.encoder_onnx} was exported from {metadata['checkpoint']['source']}, not from {loaded.source}; "
            "give the checkpoint it came from."
        )
    name = f"{folder} ({metadata['dtype']}, {runtime})"
    shape = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, sparsity_of(metadata), metadata["gelu"])
    shape = shape.to(next(loaded.sam.image_encoder.parameters()).device)
    return Variant(name, shape, ExportedEncoder(exported, runtime, device))


def combinations(choices: dict[str, Sequence[Any]], base: SparsityConfig) -> list[SparsityConfig]:
    """``base`` with every combination of ``choices``, lists of values by the names of `SparsityConfig` fields.

    ``density`` is as `choose_sparsity` has it. Combinations that contradict themselves are refused as anywhere else.
    """
    lists = {name: values for name, values in choices.items() if values}
    found = []
    for values in product(*lists.values()):
        found.append(choose_sparsity(base, **dict(zip(lists, values, strict=True))))
    return list(dict.fromkeys(found))


def describe(sparsity: SparsityConfig) -> str:
    """A short name that tells settings apart: ``lattice 0.25, share-variance 0.4``."""
    parts = []
    if sparsity.attention_density != 1:
        parts.append(f"{sparsity.order} {_words(sparsity.attention_density)}")
    if sparsity.windowed_density != 1:
        how = sparsity.order if sparsity.windowed_routing == "stripe" else sparsity.windowed_routing
        parts.append(f"windows {how} {_words(sparsity.windowed_density)}")
    if sparsity.mlp_density != 1:
        parts.append(f"MLP {sparsity.routing} {_words(sparsity.mlp_density)}")
    return ", ".join(parts) or f"dense, {sparsity.order}"


def _words(density: Density) -> str:
    return str(density) if isinstance(density, (int, float)) else "/".join(map(str, density))


def unique_names(variants: Iterable[Variant]) -> None:
    """Refuse two variants of one name, which reports could not tell apart.

    Raises:
        InvalidInput: there are two.
    """
    seen: set[str] = set()
    for variant in variants:
        if variant.name in seen:
            raise InvalidInput(f"variant {variant.name!r} is asked for twice; leave one of the two out.")
        seen.add(variant.name)
