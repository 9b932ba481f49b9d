"""Exported files of small models, made once for all tests, and what can be asked of them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, inliner, numpy_helper, shape_inference
from torch import Tensor

from sparsesam_deploy.export import writer
from sparsesam_deploy.export.encoder import export_encoder
from sparsesam_deploy.export.options import ExportOptions
from sparsesam_deploy.model.checkpoint import LoadedSam
from sparsesam_deploy.model.config import DENSE, ORDERS, PRESETS, ROUTINGS, SamConfig, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.parity.precision import in_float32
from tests.helpers import TINY, random_sam, random_tensors
from tests.made_once import made_once

TINY_HQ = replace(TINY, hq=True)
TENSORRT_MAX_TOP_K = 3840
VARIANTS = {
    # Attention and MLP share nothing in the graph but the ranking, which skip-group-rank takes from any order.
    **{f"lattice-{routing}": SparsityConfig(0.3, 0.5, routing=routing) for routing in ROUTINGS},
    **{
        f"{order}-skip-group-rank": SparsityConfig(0.3, 0.5, order=order, routing="skip-group-rank")
        for order in ORDERS
        if order != "lattice"
    },
    "dense": DENSE,
    "windows-static": SparsityConfig(0.25, 1.0, 0.4),
    "windows-shared": SparsityConfig(0.25, 0.4, (0.25, 1.0, 0.6, 1.0), windowed_routing="share-variance"),
    "windows-ranked": SparsityConfig(0.4, 0.96, 0.4, order="ranked", routing="skip-group-rank"),
    "paper": PRESETS["paper"],
}
"""What tests of every kind export: each is made once in a precision."""


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported encoder and the torch module it came from."""

    path: Path
    encoder: SparseSamEncoder

    def load(self) -> onnx.ModelProto:
        return onnx.load(self.path)

    def run(self, image: Tensor) -> list[Tensor]:
        return run_onnx(self.path, {"image": image.numpy()})


def load_tiny(config: SamConfig = TINY) -> LoadedSam:
    """What `load_checkpoint` gives of `random_checkpoint`, so that files made once are for both."""
    return LoadedSam(random_sam(config), config, _sha256(config), "tiny.safetensors")


@cache
def _sha256(config: SamConfig) -> str:
    return hashlib.sha256(safetensors.torch.save(random_tensors(config))).hexdigest()


def export(
    folder: Path,
    sparsity: SparsityConfig,
    dtype: str = "fp32",
    batch: tuple[int, int, int] = (1, 1, 1),
    gelu: str = "erf",
    config: SamConfig = TINY,
    inline: bool = False,
) -> Exported:
    """``encoder.onnx`` in ``folder``: a copy of its own of what is made once."""
    loaded, options = load_tiny(config), ExportOptions(dtype, batch=batch, inline=inline)
    encoder = SparseSamEncoder(loaded.sam.image_encoder, config, sparsity, gelu).eval()
    what = config, sparsity, gelu, options
    made = made_once("encoder.onnx", what, lambda path: export_encoder(encoder, loaded, path, options))
    return Exported(Path(shutil.copyfile(made, folder / made.name)), encoder)


def export_with_weights_beside(folder: Path, sparsity: SparsityConfig, inline: bool = False) -> Exported:
    """In float32, with the weights in a file beside ``encoder.onnx``, as where they take more than 2 GiB."""
    loaded, path = load_tiny(), folder / "encoder.onnx"
    encoder = SparseSamEncoder(loaded.sam.image_encoder, TINY, sparsity).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "EXTERNAL_DATA_ABOVE", 1000)
        export_encoder(encoder, loaded, path, ExportOptions("fp32", inline=inline))
    return Exported(path, encoder)


def random_image(batch: int = 1, seed: int = 0) -> Tensor:
    """Coarse blobs and fine noise: some cells are flat and some are not."""
    generator = torch.Generator().manual_seed(seed)
    blobs = torch.nn.functional.interpolate(torch.randn(batch, 3, 16, 16, generator=generator), size=(1024, 1024))
    return blobs + 0.3 * torch.randn(batch, 3, 1024, 1024, generator=generator)


def run_onnx(path: Path, inputs: dict[str, np.ndarray]) -> list[Tensor]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(result) for result in session.run(None, inputs)]


def run_openvino(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What OpenVINO computes in float32, which it would else round to bfloat16 where the processor can."""
    core = openvino.Core()
    read = core.read_model(model.SerializeToString())
    results = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(inputs)
    return {name: value for output, value in results.items() for name in output.names}


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without functions, every type and shape that can be inferred filled in."""
    return shape_inference.infer_shapes(inliner.inline_local_functions(model), data_prop=True)


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every value by name."""
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    return types | {weight.name: weight.data_type for weight in graph.initializer}


def forbidden_nodes(model: onnx.ModelProto) -> list[str]:
    """What TensorRT does not take: reductions in scatters, NonZero, and TopK beyond 3840."""
    return list(_forbidden(inlined(model)))


def _forbidden(model: onnx.ModelProto) -> Iterator[str]:
    ks = [node.input[1] for node in model.graph.node if node.op_type == "TopK"]
    values = _evaluate(model, ks)
    for node in model.graph.node:
        reduction = next((a.s for a in node.attribute if a.name == "reduction"), b"none")
        if node.op_type == "NonZero" or (node.op_type.startswith("Scatter") and reduction != b"none"):
            yield f"{node.name}: {node.op_type} {reduction.decode()}"
        if node.op_type == "TopK" and values[node.input[1]] > TENSORRT_MAX_TOP_K:
            yield f"{node.name}: TopK of {values[node.input[1]]}"


def _evaluate(model: onnx.ModelProto, names: list[str]) -> dict[str, int]:
    """Integers inside the graph, from running it: a k may be computed from shapes."""
    if not names:
        return {}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe = in_float32(probe, (), rounded=False)  # the CPU provider has no bfloat16 kernels
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    results = session.run(None, {"image": np.zeros((1, 3, 1024, 1024), np.float32)})
    return {name: int(np.ravel(value)[0]) for name, value in zip(dict.fromkeys(names), results, strict=True)}


def wide_integer_tables(model: onnx.ModelProto) -> list[str]:
    """int64 constants with more entries than a shape has: index tables that should be int32."""
    constants = list(model.graph.initializer)
    for node in inlined(model).graph.node:
        constants += [
            a.t for a in node.attribute if node.op_type == "Constant" and a.type == onnx.AttributeProto.TENSOR
        ]
    arrays = {c.name: numpy_helper.to_array(c) for c in constants if c.data_type == TensorProto.INT64}
    return [f"{name}{list(array.shape)}" for name, array in arrays.items() if array.size > 8]


def global_outputs(encoder: SparseSamEncoder, streams: list[Tensor]) -> Tensor:
    """What SAM-HQ's decoder asks for: the outputs of the global blocks as grids, from the outputs of all blocks."""
    return torch.stack([encoder.to_grid(streams[index]) for index in encoder.config.global_blocks])
