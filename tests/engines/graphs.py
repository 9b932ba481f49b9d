"""Small ONNX graphs in the form this project exports, and stand-ins for the builder that cannot be installed here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sparsesam_deploy.engines import builder as builder_module
from sparsesam_deploy.engines.builder import BuiltEngine, build_engine
from sparsesam_deploy.engines.cuda import CudaDevice
from sparsesam_deploy.engines.options import EngineOptions

node = helper.make_node
ELEMENT = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
ROWS, DIM = 256, 64


def weight(name: str, shape: tuple[int, ...], dtype: str = "fp16") -> TensorProto:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 0.02
    return onnx.numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(ELEMENT[dtype])), name)


def graph(nodes, inputs, outputs, weights=(), functions=(), dtype: str | None = "fp16") -> onnx.ModelProto:
    """A model with ``sparsesam.dtype`` in its metadata; inputs and outputs are (name, shape[, dtype])."""

    def value(name, shape, element=dtype or "fp16"):
        return helper.make_tensor_value_info(name, ELEMENT[element], shape)

    body = helper.make_graph(nodes, "g", [value(*i) for i in inputs], [value(*o) for o in outputs], list(weights))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("sparsesam", 1)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=10, functions=list(functions))
    if dtype is not None:
        helper.set_model_props(model, {"sparsesam.dtype": dtype})
    return model


def matmul_softmax(dtype: str = "fp16") -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "w"], ["a"], name="product"), node("Softmax", ["a"], ["y"], axis=-1)]
    return graph(
        nodes, [("x", [1, ROWS, DIM])], [("y", [1, ROWS, ROWS])], [weight("w", (DIM, ROWS), dtype)], dtype=dtype
    )


def image_batch() -> onnx.ModelProto:
    """Two products, one a convolution, with the batch fixed at 1."""
    return _convolution(1)


def dynamic_batch() -> onnx.ModelProto:
    return _convolution("batch")


def _convolution(batch: int | str) -> onnx.ModelProto:
    nodes = [node("Conv", ["x", "w"], ["y"], name="patches", kernel_shape=[16, 16], strides=[16, 16])]
    return graph(nodes, [("x", [batch, 3, 64, 64])], [("y", [batch, DIM, 4, 4])], [weight("w", (DIM, 3, 16, 16))])


def stripe_attention(function: bool = True) -> onnx.ModelProto:
    """Two custom nodes with a body that has a product in float32 between Casts, as routing scores do."""
    plugin = {"plugin_namespace": "", "plugin_version": "1"}
    nodes = [
        node("StripeAttention", ["x"], ["a"], name="block0", domain="sparsesam", scale=0.5, **plugin),
        node("StripeAttention", ["a"], ["y"], name="block1", domain="sparsesam", scale=0.25, **plugin),
    ]
    scale = node("Constant", [], ["sa_scale"])
    scale.attribute.append(onnx.AttributeProto(name="value_float", ref_attr_name="scale", type=1))
    body = [
        node("Cast", ["sa_x"], ["sa_wide"], to=TensorProto.FLOAT),
        node("Transpose", ["sa_wide"], ["sa_t"], perm=[0, 2, 1]),
        node("MatMul", ["sa_wide", "sa_t"], ["sa_scores"], name="scores"),
        scale,
        node("Mul", ["sa_scores", "sa_scale"], ["sa_scaled"]),
        node("Softmax", ["sa_scaled"], ["sa_wide_p"], axis=-1),
        node("CastLike", ["sa_wide_p", "sa_x"], ["sa_p"]),
        node("MatMul", ["sa_p", "sa_x"], ["sa_out"], name="values"),
    ]
    names = ["scale", *plugin]
    proto = helper.make_function(
        "sparsesam", "StripeAttention", ["sa_x"], ["sa_out"], body, [helper.make_opsetid("", 20)], names
    )
    return graph(nodes, [("x", [1, ROWS, DIM])], [("y", [1, ROWS, DIM])], functions=[proto] if function else [])


def chain(length: int) -> onnx.ModelProto:
    """``length`` products in a row: a build long enough to be interrupted."""
    nodes, last = [], "x"
    for i in range(length):
        nodes += [node("MatMul", [last, "w"], [f"a{i}"]), node("Softmax", [f"a{i}"], [f"s{i}"], axis=-1)]
        last = f"s{i}"
    return graph(nodes, [("x", [1, 512, 512])], [(last, [1, 512, 512])], [weight("w", (512, 512))])


def save(model: onnx.ModelProto, folder: Path, name: str = "encoder.onnx") -> Path:
    onnx.save(model, folder / name)
    return folder / name


class FakeTensorRT(ModuleType):
    """``tensorrt`` as far as this project uses it: tensorrt_rtx under the other name, recording what it is asked.

    The two Python APIs are the same; what differs between releases is replaced. ``loads_plugins`` makes the builder's
    registry accept any library without loading it.
    """

    def __init__(self, version: str, strongly_typed_flag: bool, loads_plugins: bool) -> None:
        super().__init__("tensorrt")
        import tensorrt_rtx

        self._real, self.__version__ = tensorrt_rtx, version
        self.network_flags: list[int] = []
        self.configs: list[Any] = []
        if not strongly_typed_flag:
            self.NetworkDefinitionCreationFlag = SimpleNamespace()
        fake = self

        class Builder(tensorrt_rtx.Builder):
            def create_network(self, flags: int = 0):
                fake.network_flags.append(flags)
                return super().create_network(flags)

            def create_builder_config(self):
                fake.configs.append(super().create_builder_config())
                return fake.configs[-1]

            def get_plugin_registry(self):
                return SimpleNamespace(load_library=str) if loads_plugins else super().get_plugin_registry()

        self.Builder = Builder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def install_tensorrt(
    patch: pytest.MonkeyPatch,
    version: str = "11.1.0",
    strongly_typed_flag: bool = True,
    loads_plugins: bool = False,
    devices: tuple[CudaDevice, ...] = (CudaDevice("NVIDIA Fake", "SM89"),),
) -> FakeTensorRT:
    """Make ``import tensorrt`` find a `FakeTensorRT`, on a machine with ``devices``."""
    fake = FakeTensorRT(version, strongly_typed_flag, loads_plugins)
    patch.setitem(sys.modules, "tensorrt", fake)
    patch.setattr(builder_module, "cuda_devices", lambda: devices)
    patch.setattr(builder_module, "tensorrt_major", lambda library: int(version.split(".")[0]))
    return fake


def silent(share: float, words: str) -> None:
    """A progress bar nobody looks at."""


def build(
    model: onnx.ModelProto,
    folder: Path,
    builder: str = "tensorrt-rtx",
    advance=silent,
    plugin_library=None,
    batch=(1, 1, 1),
    **options,
) -> BuiltEngine:
    """Save and build a graph; ``options`` are those of `EngineOptions`."""
    return build_engine(save(model, folder), builder, EngineOptions(**options), advance, plugin_library, batch)
