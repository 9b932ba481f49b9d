"""Open an engine: manifest first, then plugins, then the engine itself. All callers open engines here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckFailed, EnvironmentProblem
from .builder import load_builder
from .cuda import cuda_devices
from .folder import BuildFolder
from .manifest import EngineManifest, FileRecord
from .monitor import Messages, logger_into


@dataclass(frozen=True, eq=False)
class OpenEngine:
    """A deserialized engine and what must live as long as it does.

    Attributes:
        engine: an ``ICudaEngine``.
        path: the file it came from.
        kernels: what runs it, in words.
        messages: what the runtime says from here on.
    """

    engine: Any
    path: Path
    kernels: str
    messages: Messages
    runtime: Any
    logger: Any


def open_engine(folder: Path, manifest: EngineManifest, record: FileRecord, device: int = 0) -> OpenEngine:
    """Open an engine of ``folder`` on a GPU, by its number among the visible ones; it must be torch's current one.

    Raises:
        CheckFailed: files, runtime or GPU are not those of the manifest, or the engine does not deserialize.
        EnvironmentProblem: no such GPU, no such runtime, or a plugin library does not load.
    """
    folder = folder.resolve()  # a bare name would be looked for elsewhere by dlopen
    devices = cuda_devices()
    if device >= len(devices):
        raise EnvironmentProblem(
            f"{folder / record.name} runs on a GPU, and there is no cuda:{device}: {len(devices)} GPUs are visible "
            "here; use one of them, or the onnxruntime or torch runtime on the CPU."
        )
    trt = load_builder(manifest.builder)
    BuildFolder(folder).check_engines(manifest, trt.__version__, devices[device].compute_capability)
    messages = Messages()
    logger = logger_into(trt, messages)
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = manifest.carries_host_code
    # The runtime's own registry: the process-wide one takes a library once only.
    for library in sorted(folder / name for name in manifest.libraries):
        if runtime.get_plugin_registry().load_library(str(library)) is None:
            raise EnvironmentProblem(
                f"plugin library {library} does not load ({messages.reason()}); rebuild it on this machine."
            )
    path = folder / record.name
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise CheckFailed(f"{path} does not load ({messages.reason()}); rebuild it on this machine.")
    kernels = f"{manifest.builder} {trt.__version__} on {devices[device].name}"
    return OpenEngine(engine, path, kernels, messages, runtime, logger)
