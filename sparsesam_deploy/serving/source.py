"""What is to be served: folders of ``sparsesam-export build``, checked against their manifests and each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from ..engines.folder import BuildFolder
from ..engines.manifest import EngineManifest
from ..errors import InvalidInput
from ..export.metadata import load_exported

Platform = Literal["tensorrt_plan", "onnxruntime"]
ELEMENT_TYPES: dict[int, str] = {onnx.TensorProto.FLOAT: "TYPE_FP32"}
ANY = -1
SAME = (
    *("checkpoint", "family", "export", "sparsity", "preprocessing"),
    *("plugins", "builder_version", "version_compatible"),
)
"""Fields in which engines of one model for several GPUs must agree: one server loads them with one TensorRT."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: name, Triton's data type, dimensions with -1 for a dynamic one, batch axis included."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Network:
    """An encoder or decoder as its ONNX file declares it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def batchable(self) -> bool:
        """Whether Triton may join requests: every tensor's first axis is the batch, and dynamic."""
        return all(spec.dims[0] == ANY for spec in (*self.inputs, *self.outputs))

    @classmethod
    def read(cls, path: Path, kind: str) -> Network:
        """Raises as `load_exported`."""
        model, _ = load_exported(path, kind)
        return cls(*(tuple(map(_tensor, values)) for values in (model.graph.input, model.graph.output)))


@dataclass(frozen=True)
class Source:
    """A folder and its manifest."""

    folder: Path
    manifest: EngineManifest

    @classmethod
    def read(cls, folder: Path) -> Source:
        """Read the manifest in ``folder`` and compare every file that it names.

        Raises:
            InvalidInput: no manifest, or not one of this release.
            CheckFailed: the build failed its parity check, or a file is missing or has changed.
        """
        build = BuildFolder.of(folder)
        manifest = build.read()
        build.check_engines(manifest)
        build.check_sources(manifest)
        return cls(build.path, manifest)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Compute capabilities in CUDA's notation: SM90 is 9.0, SM120 is 12.0."""
        return tuple(re.sub(r"^SM(\d+)(\d)$", r"\1.\2", name) for name in self.manifest.compute_capabilities)


def check_platform(sources: Sequence[Source], encoder: Platform, decoder: Platform) -> None:
    """Refuse what Triton could not serve, or would serve as something else than asked for.

    Raises:
        InvalidInput: naming the folder and what to do.
    """
    for source in sources:
        folder, manifest = source.folder, source.manifest
        if manifest.builder != "tensorrt" and "tensorrt_plan" in (encoder, decoder):
            raise InvalidInput(
                f"the engines in {folder} are of {manifest.builder}, which Triton's tensorrt backend cannot load; "
                "build with --builder tensorrt on the GPU to serve from, or serve the ONNX files with "
                "--platform onnxruntime."
            )
        if manifest.decoder_onnx is None:
            raise InvalidInput(f"{folder} has no decoder.onnx; build it again with `sparsesam-export build`.")
        if decoder == "tensorrt_plan" and manifest.decoder_engine is None:
            raise InvalidInput(
                f"{folder} has no decoder.engine; build it again, or serve decoder.onnx with "
                "--decoder-platform onnxruntime."
            )
        if manifest.batch.min > 1:
            raise InvalidInput(
                f"the encoder in {folder} takes {manifest.batch.min} images or more at once, but a request is one; "
                f"build with --batch 1,{manifest.batch.opt},{manifest.batch.max}."
            )
    if encoder == "onnxruntime" and len(sources) > 1:
        raise InvalidInput("--platform onnxruntime serves one ONNX file on every GPU; name one folder.")


def check_alike(sources: Sequence[Source]) -> None:
    """Several folders must be one model, built for different GPUs.

    Raises:
        InvalidInput: naming the first difference, or the GPU that two engines are for.
    """
    first, *others = sources
    for other in others:
        for field in SAME:
            if getattr(other.manifest, field) != getattr(first.manifest, field):
                raise InvalidInput(
                    f"the manifests of {first.folder} and {other.folder} differ in {field}; build both alike, or "
                    "serve them as two models with --name."
                )
    owner: dict[str, Path] = {}
    for source in sources:
        for capability in source.capabilities:
            if capability in owner:
                raise InvalidInput(
                    f"{owner[capability]} and {source.folder} both hold an engine for compute capability {capability}; "
                    "leave one out."
                )
            owner[capability] = source.folder


def _tensor(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dims = tuple(ANY if dim.dim_param else dim.dim_value for dim in kind.shape.dim)
    return TensorSpec(value.name, ELEMENT_TYPES[kind.elem_type], dims)
