"""Runs a built engine through polygraphy, where a GPU can."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..engines.cuda import cuda_devices
from ..engines.manifest import EngineManifest, FileRecord
from ..engines.opening import open_engine
from ..errors import CheckFailed, EnvironmentProblem
from ..optional import importing


def why_not(manifest: EngineManifest) -> str | None:
    """The reason why this machine cannot run the engine, as a clause; None when it can."""
    built_for = ", ".join(manifest.compute_capabilities)
    try:
        devices = cuda_devices()
    except EnvironmentProblem as problem:
        return f"no device: {problem}"
    if not devices:
        return f"no device: this machine has no CUDA GPU, the engine is for {built_for}"
    if devices[0].compute_capability not in manifest.compute_capabilities:
        return f"no device: {devices[0].name} is {devices[0].compute_capability}, the engine is for {built_for}"
    return None


class EngineRunner:
    """One engine of a folder, the encoder's or the decoder's, on the first GPU.

    Raises:
        CheckFailed: manifest and engine, runtime or GPU do not match, or the engine does not load or run.
        EnvironmentProblem: polygraphy or the runtime package is missing or serves another builder, or a plugin library
            does not load.
    """

    def __init__(self, folder: Path, manifest: EngineManifest, record: FileRecord) -> None:
        # Polygraphy chooses between TensorRT and TensorRT-RTX by this variable, once, when it is imported.
        rtx = manifest.builder == "tensorrt-rtx"
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if rtx else "0"
        with importing("polygraphy", "running an engine", "rtx" if rtx else "tensorrt"):
            from polygraphy import config
            from polygraphy.backend.trt import TrtRunner

        if rtx != config.USE_TENSORRT_RTX:
            raise EnvironmentProblem(
                f"this process has run engines of another builder already, beside which {manifest.builder} cannot run; "
                "use a process of its own for each."
            )
        self.opened, self.runner_type = open_engine(folder, manifest, record), TrtRunner
        self.kernels = self.opened.kernels

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, float32."""
        with self._explained(), self.runner_type(self.opened.engine) as runner:
            return {name: np.array(value, np.float32) for name, value in runner.infer(inputs).items()}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from polygraphy.exception import PolygraphyException

        try:
            yield
        except PolygraphyException as error:
            reason = str(error).splitlines()[0]
            raise CheckFailed(f"{self.opened.path} does not run ({reason}); rebuild it on this machine.") from error
