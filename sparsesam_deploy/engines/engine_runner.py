"""Runs a built engine through polygraphy, where a GPU can."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np

from .builder import load_builder
from .cuda import cuda_devices
from .manifest import EngineManifest


def why_not(manifest: EngineManifest) -> str | None:
    """The reason why this machine cannot run the engine, as a clause; None when it can."""
    devices = cuda_devices()
    built_for = ", ".join(manifest.compute_capabilities)
    if not devices:
        return f"no device: this machine has no CUDA GPU, the engine is for {built_for}"
    if devices[0].compute_capability not in manifest.compute_capabilities:
        return f"no device: {devices[0].name} is {devices[0].compute_capability}, the engine is for {built_for}"
    if importlib.util.find_spec("polygraphy") is None:
        return "polygraphy is not installed (pip install polygraphy)"
    return None


class EngineRunner:
    """One engine on the current GPU; the manifest beside it is checked first.

    Raises:
        CheckFailed: manifest and engine, runtime or GPU do not match.
        EnvironmentProblem: the runtime package is missing.
    """

    def __init__(self, folder: Path, manifest: EngineManifest) -> None:
        trt = load_builder(manifest.builder)
        manifest.check(folder, trt.__version__, cuda_devices()[0].compute_capability)
        # Polygraphy chooses between TensorRT and TensorRT-RTX by this variable, once, when it is imported.
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if manifest.builder == "tensorrt-rtx" else "0"
        from polygraphy.backend.common import BytesFromPath
        from polygraphy.backend.trt import EngineFromBytes, LoadPlugins, TrtRunner

        libraries = sorted({str(folder / plugin.library) for plugin in manifest.plugins})
        load = EngineFromBytes(BytesFromPath(str(folder / manifest.engine.name)))
        self.load = LoadPlugins(plugins=libraries, obj=load) if libraries else load
        self.runner_type = TrtRunner
        self.kernels = f"{manifest.builder} {trt.__version__} on {cuda_devices()[0].name}"

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, float32."""
        with self.runner_type(self.load) as runner:
            return {name: np.array(value, np.float32) for name, value in runner.infer(inputs).items()}
