"""A runtime with TensorRT's Python API whose engines compute on the host, at the addresses they are given.

It keeps a diary of every call that matters, and is as strict as the real one: an execution context that lacks a shape
or an address does not run.
"""

from __future__ import annotations

import ctypes
from types import ModuleType, SimpleNamespace

import numpy as np

PLAN = b"a plan"
SHAPES = {"interm_embeddings": (2, -1, 64, 64, 64), "image_embeddings": (-1, 256, 64, 64)}
"""Outputs of a SAM-HQ; the batch is -1."""
SCALE = 2.0


class FakeTensorRT(ModuleType):
    """``tensorrt`` as far as loading and running an engine use it.

    The engine's outputs are each ``SCALE`` times the first numbers of its input. ``fails`` names a step that gives
    nothing, as the real one does, with a word to the logger; ``outputs`` are some of `SHAPES`.
    """

    __version__ = "11.1.0"

    def __init__(self, fails: str = "", outputs: tuple[str, ...] = ("image_embeddings",)) -> None:
        super().__init__("tensorrt")
        self.fails, self.outputs, self.diary = fails, outputs, []
        self.Logger = SimpleNamespace
        severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)
        self.ILogger = type("ILogger", (), {"Severity": severity, "__init__": lambda self: None})
        self.Runtime = lambda logger: _Runtime(self, logger)

    def step(self, logger, name: str, *details) -> bool:
        """Note a step; False where it should fail."""
        self.diary.append((name, *details))
        if name == self.fails:
            logger.log(self.ILogger.Severity.ERROR, f"{name} is not to be had")
        return name != self.fails


class _Runtime:
    def __init__(self, trt, logger):
        self.trt, self.logger, self.engine_host_code_allowed = trt, logger, False

    def get_plugin_registry(self):
        def load_library(path):
            return "a handle" if self.trt.step(self.logger, "plugins", path) else None

        return SimpleNamespace(load_library=load_library)

    def deserialize_cuda_engine(self, data):
        good = self.trt.step(self.logger, "engine", self.engine_host_code_allowed) and data == PLAN
        return _Engine(self.trt, self.logger) if good else None


class _Engine:
    def __init__(self, trt, logger):
        self.trt, self.logger = trt, logger
        self.names = ("image", *trt.outputs)
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index):
        return self.names[index]

    def create_execution_context(self):
        return _Context(self.trt, self.logger) if self.trt.step(self.logger, "context") else None


class _Context:
    def __init__(self, trt, logger):
        self.trt, self.logger, self.shape, self.addresses = trt, logger, None, {}

    def set_input_shape(self, name, shape):
        self.shape = shape if self.trt.step(self.logger, "shape", name, shape) else None
        return self.shape is not None

    def get_tensor_shape(self, name):
        return tuple(self.shape[0] if size == -1 and self.shape else size for size in SHAPES[name])

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return self.trt.step(self.logger, "address", name, address)

    def execute_async_v3(self, stream):
        ready = self.shape is not None and set(self.addresses) == {"image", *self.trt.outputs}
        if not (ready and self.trt.step(self.logger, "run", stream)):
            return False
        for name in self.trt.outputs:
            count = int(np.prod(self.get_tensor_shape(name)))
            image, result = (_floats(self.addresses[key], count) for key in ("image", name))
            result[:] = SCALE * image
        return True


def _floats(address: int, count: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))
