"""A stand-in for Triton Inference Server: reads a repository as the server does and executes requests on the CPU.

Rules are those of triton-inference-server/core: `check_ensemble` is ``ValidateEnsembleConfig`` of ensemble_utils.cc,
`_reshaped` is ``EnsembleContext::ReshapeTensorDims`` of ensemble_scheduler.cc. Tensors are checked against the
configuration wherever one model hands them to another.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig
from tritonclient.utils import triton_to_np_dtype

ANY = -1


class Refused(Exception):
    """What the server would answer with an error."""


def read_config(model: Path) -> ModelConfig:
    """A model's configuration, by the schema; unknown fields raise."""
    return text_format.Parse((model / "config.pbtxt").read_text(), ModelConfig())


def read_configs(repository: Path) -> dict[str, ModelConfig]:
    return {path.name: read_config(path) for path in sorted(repository.iterdir()) if path.is_dir()}


def matches(left: list[int], right: list[int]) -> bool:
    """CompareDimsWithWildcard."""
    return len(left) == len(right) and all(ANY in pair or pair[0] == pair[1] for pair in zip(left, right, strict=True))


def full_dims(config: ModelConfig, tensor) -> list[int]:
    return [ANY] * (config.max_batch_size > 0) + list(tensor.dims)


def check_ensemble(ensemble: ModelConfig, configs: dict[str, ModelConfig]) -> None:
    """Raise AssertionError where the server would refuse the ensemble, or where a tensor is produced twice or never."""
    known = {tensor.name: (ensemble, tensor) for tensor in (*ensemble.input, *ensemble.output)}
    produced = [tensor.name for tensor in ensemble.input]

    def agree(name, config, tensor):
        there, other = known.setdefault(name, (config, tensor))
        assert other.data_type == tensor.data_type, name
        same = matches(other.dims, tensor.dims) or matches(full_dims(there, other), full_dims(config, tensor))
        assert same, f"{name}: {full_dims(there, other)} and {full_dims(config, tensor)}"

    for step in ensemble.ensemble_scheduling.step:
        config = configs[step.model_name]
        assert config.max_batch_size == 0 or config.max_batch_size >= ensemble.max_batch_size
        inputs, outputs = ({tensor.name: tensor for tensor in side} for side in (config.input, config.output))
        assert set(step.input_map) <= set(inputs) and set(step.output_map) <= set(outputs)
        assert all(name in step.input_map or tensor.optional for name, tensor in inputs.items())
        for name, target in step.input_map.items():
            agree(target, config, inputs[name])
        for name, target in step.output_map.items():
            agree(target, config, outputs[name])
            produced.append(target)
    assert len(set(produced)) == len(produced), "an ensemble tensor has two sources"
    used = {name for step in ensemble.ensemble_scheduling.step for name in step.input_map.values()}
    assert used | {tensor.name for tensor in ensemble.output} == set(produced)


class Server:
    """Serves a repository; `infer` is what a client would ask."""

    def __init__(self, repository: Path) -> None:
        self.repository, self.configs = repository, read_configs(repository)
        self.loaded: dict[str, object] = {}
        self.calls: list[str] = []

    def infer(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        config = self.configs[name]
        self._check(config, config.input, inputs)
        self.calls.append(name)
        run = self._ensemble if config.platform == "ensemble" else self._model
        outputs = run(config, inputs)
        self._check(config, config.output, outputs)
        return outputs

    def _check(self, config: ModelConfig, declared, tensors: dict[str, np.ndarray]) -> None:
        by_name = {tensor.name: tensor for tensor in declared}
        assert set(tensors) <= set(by_name), (config.name, set(tensors) - set(by_name))
        for name, tensor in by_name.items():
            if name not in tensors:
                assert getattr(tensor, "optional", False), f"{config.name} misses {name}"
                continue
            array, kind = tensors[name], DataType.Name(tensor.data_type).removeprefix("TYPE_")
            assert array.dtype == triton_to_np_dtype(kind), (config.name, name, array.dtype, kind)
            assert matches(array.shape, full_dims(config, tensor)), (config.name, name, array.shape)
            assert config.max_batch_size == 0 or len(array) <= config.max_batch_size

    def _ensemble(self, ensemble: ModelConfig, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Steps in whatever order their inputs come to be, as the scheduler has it."""
        tensors = {tensor.name: (inputs.get(tensor.name), ensemble.max_batch_size > 0) for tensor in ensemble.input}
        waiting = list(ensemble.ensemble_scheduling.step)
        while waiting:
            step = next(step for step in waiting if set(step.input_map.values()) <= set(tensors))
            waiting.remove(step)
            config = self.configs[step.model_name]
            declared = {tensor.name: tensor for tensor in config.input}
            given = {
                name: _reshaped(config, declared[name], *tensors[source])
                for name, source in step.input_map.items()
                if tensors[source][0] is not None
            }
            outputs = self.infer(step.model_name, given)
            for name, target in step.output_map.items():
                tensors[target] = (outputs[name], config.max_batch_size > 0)
        return {tensor.name: _reshaped(ensemble, tensor, *tensors[tensor.name]) for tensor in ensemble.output}

    def _model(self, config: ModelConfig, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if config.name not in self.loaded:
            folder = self.repository / config.name
            newest = folder / str(max(int(version.name) for version in folder.iterdir() if version.is_dir()))
            self.loaded[config.name] = {"onnxruntime": _load_onnx, "python": _load_python}[config.backend](
                newest, config
            )
        return self.loaded[config.name](inputs)


def _reshaped(config: ModelConfig, tensor, array: np.ndarray, from_batching: bool) -> np.ndarray:
    batching = config.max_batch_size > 0
    if batching and not from_batching and matches(tensor.dims, array.shape):
        return array[None]
    if not batching and from_batching and not matches(tensor.dims, array.shape) and len(array) == 1:
        return array[0]
    return array


def _load_onnx(version: Path, config: ModelConfig):
    session = onnxruntime.InferenceSession(version / config.default_model_filename, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in config.output]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def _load_python(version: Path, config: ModelConfig):
    """As pb_stub.cc: import the file, give it the configuration as JSON, hand it requests."""
    spec = importlib.util.spec_from_file_location(f"{config.name}_model", version / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({"model_config": json_format.MessageToJson(config, preserving_proto_field_name=True)})

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        (response,) = model.execute([[Tensor(name, array) for name, array in inputs.items()]])
        if response.error is not None:
            raise Refused(response.error)
        return {tensor.name: tensor.array for tensor in response.output_tensors}

    return run


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> np.ndarray:
        return self.array


class TritonError(Exception):
    INVALID_ARG = 3

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self.output_tensors, self.error = output_tensors, error


def python_backend_utils() -> types.ModuleType:
    """Stands for ``triton_python_backend_utils``; a request is a list of tensors."""
    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor, module.InferenceResponse, module.TritonError = Tensor, InferenceResponse, TritonError
    module.get_input_tensor_by_name = lambda request, name: next((t for t in request if t.name == name), None)
    return module


def install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", python_backend_utils())
