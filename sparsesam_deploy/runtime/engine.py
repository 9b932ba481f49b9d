"""A TensorRT engine as a runtime."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..engines.manifest import EngineManifest
from ..engines.opening import OpenEngine, open_engine
from ..errors import CheckFailed, EnvironmentProblem
from ..export.encoder import HQ_OUTPUT, OUTPUT
from .interface import INPUT, Run, Runtime, float32_result


class EngineRuntime(Runtime):
    """A TensorRT or TensorRT-RTX engine.

    Raises:
        CheckFailed, EnvironmentProblem: see `open_engine`.
    """

    def __init__(self, folder: Path, manifest: EngineManifest, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):  # engines and contexts belong to the GPU that is current when they are made
            self.opened = open_engine(folder, manifest, manifest.engine, device.index)
        self.kernels = self.opened.kernels

    def new_run(self) -> Run:
        with torch.cuda.device(self.device):
            return _EngineRun(self.opened)


class _EngineRun:
    """One execution context: the engine reads the image and writes the results where torch has them."""

    def __init__(self, opened: OpenEngine) -> None:
        self.opened, engine = opened, opened.engine
        self.context = engine.create_execution_context()
        if self.context is None:
            raise EnvironmentProblem(
                f"{opened.path} has no room for its working memory ({opened.messages.reason()}); free GPU memory."
            )
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.outputs = [name for name in (OUTPUT, HQ_OUTPUT) if name in names]

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        context = self.context
        self._require(context.set_input_shape(INPUT, tuple(image.shape)))
        self._require(context.set_tensor_address(INPUT, image.data_ptr()))
        results = []
        for name in self.outputs:
            results.append(float32_result(context.get_tensor_shape(name), image.device))
            self._require(context.set_tensor_address(name, results[-1].data_ptr()))
        self._require(context.execute_async_v3(torch.cuda.current_stream(image.device).cuda_stream))
        return tuple(results)

    def _require(self, done: bool) -> None:
        if not done:
            reason = self.opened.messages.reason()
            raise CheckFailed(f"{self.opened.path} does not run ({reason}); rebuild it on this machine.")
