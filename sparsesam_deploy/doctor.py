"""What this machine has and lacks for exporting and building, and what to do about it."""

from __future__ import annotations

import importlib.util
import platform
import runpy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

import psutil

from .engines.builder import BuilderName, load_builder
from .engines.cuda import cuda_devices
from .errors import EnvironmentProblem, SparseSamError
from .optional import EXTRAS, importing, install, missing
from .plugin_library import find_library, tensorrt_major
from .provenance import UNKNOWN, driver_version

GIB = 1 << 30
ENOUGH_MEMORY = 8 * GIB
"""What exporting and building the largest model (ViT-H) takes."""
ENOUGH_DISK = 4 * GIB
"""ViT-H in fp16 as ONNX and as engine, with as much again while a build replaces an older one."""

PURPOSES = {
    "onnxruntime": "the proof of a build, verify, running a build on the CPU",
    "openvino": "running a build on the CPU",
    "rtx": "engines by --builder tensorrt-rtx",
    "tensorrt": "engines by --builder tensorrt",
    "triton": "the GPU kernels, tune-kernels",
    "accuracy": "evaluate, tune, --overlay",
    "serving": "triton-server",
}
"""What an extra is for."""


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``note`` is something to know, ``problem`` something that will stop a build."""

    name: str
    value: str
    status: Literal["ok", "note", "problem"] = "ok"
    remedy: str | None = None


def examine() -> list[Finding]:
    """Look at packages, GPU, memory and disk. Takes a second or two, starts no build and never raises."""
    probes: dict[str, Callable[[], Iterator[Finding]]] = {
        "python": _python,
        "torch": _torch,
        "onnx": _onnx,
        "builder": _builders,
        "extras": _extras,
        "gpu": _gpu,
        "plugin library": _plugin_library,
        "memory": _memory,
        "disk": _disk,
    }
    return [finding for name, probe in probes.items() for finding in _safely(name, probe)]


def _safely(name: str, probe: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(probe())
    except Exception as error:  # a broken package must not hide what the other probes find
        return [Finding(name, f"cannot be examined ({type(error).__name__}: {error})", "problem")]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _python() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _torch() -> Iterator[Finding]:
    version = _version("torch")
    if version is None:
        yield Finding("torch", "not installed", "problem", "pip install torch torchvision")
        return
    # Importing torch takes seconds; the file it keeps its build settings in takes none.
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None  # it has a version
    package = Path(spec.origin).parent
    cuda = runpy.run_path(str(package / "version.py")).get("cuda")
    build = f"built for CUDA {cuda}" if cuda else "built without CUDA"
    if cuda_devices() and not cuda:
        remedy = "install torch for CUDA: https://pytorch.org/get-started/locally"
        yield Finding("torch", f"{version}, {build}, so it cannot use this machine's GPU", "note", remedy)
    else:
        yield Finding("torch", f"{version}, {build}")


def _onnx() -> Iterator[Finding]:
    yield Finding("onnx", metadata.version("onnx"))
    if missing(["onnxruntime"]):
        remedy = f"{install('onnxruntime')}, or {install('onnxruntime-gpu')} for an NVIDIA GPU; not both"
        yield Finding("onnxruntime", f"not installed: {PURPOSES['onnxruntime']}", "note", remedy)
        return
    with importing("onnxruntime", "the doctor"):
        import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    value = f"{onnxruntime.__version__}, runs on {', '.join(providers)}"
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        remedy = "pip uninstall -y onnxruntime && pip install --force-reinstall onnxruntime-gpu"
        yield Finding("onnxruntime", f"{value}; onnxruntime-gpu is there too and has the same files", "note", remedy)
    else:
        yield Finding("onnxruntime", value)


def _builders() -> Iterator[Finding]:
    usable = []
    for name in get_args(BuilderName):
        try:
            yield Finding(name, load_builder(name).__version__)
            usable.append(name)
        except EnvironmentProblem as problem:
            reason, _, remedy = str(problem).rstrip(".").partition("; ")
            yield Finding(name, reason, "note", remedy)
    if usable:
        yield Finding("builder", " or ".join(f"--builder {name}" for name in usable))
    else:
        yield Finding("builder", "none can be used here", "problem", install("rtx"))


def _extras() -> Iterator[Finding]:
    """What each extra is for and which of its packages are there; the two of ONNX Runtime are `_onnx`'s."""
    for extra, packages in EXTRAS.items():
        if extra.startswith("onnxruntime"):
            continue
        if absent := missing(packages):
            value = f"{', '.join(absent)} not installed: {PURPOSES[extra]}"
            yield Finding(f"extra {extra}", value, "note", install(extra))
        else:
            versions = (f"{package} {_version(package) or 'of unknown version'}" for package in packages)
            yield Finding(f"extra {extra}", ", ".join(versions))


def _gpu() -> Iterator[Finding]:
    devices = cuda_devices()
    for ordinal, device in enumerate(devices):
        yield Finding(f"gpu {ordinal}", f"{device.name}, compute capability {device.compute_capability}")
    if not devices:
        yield Finding("gpu", "none: tensorrt-rtx can build engines here, and no engine can run here", "note")
    driver = driver_version()
    if driver != UNKNOWN:
        yield Finding("driver", driver, "ok" if devices else "note")
    elif not devices:
        yield Finding("driver", "none", "note")
    else:
        yield Finding("driver", UNKNOWN, "note", None if _version("nvidia-ml-py") else "pip install nvidia-ml-py")


def _plugin_library() -> Iterator[Finding]:
    try:
        library = find_library()
        yield Finding("plugin library", f"{library}, for TensorRT {tensorrt_major(library)}")
    except SparseSamError as problem:
        reason, _, remedy = str(problem).rstrip(".").partition(": ")
        yield Finding("plugin library", f"{reason}; engines by tensorrt need it or --no-plugins", "note", remedy)


def _memory() -> Iterator[Finding]:
    free = psutil.virtual_memory().available
    yield _amount("free memory", free, ENOUGH_MEMORY, "ViT-H needs 8 GiB: close other programs or take a smaller model")


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    remedy = "ViT-H needs 4 GiB: free space or choose --output"
    yield _amount("free disk", free, ENOUGH_DISK, remedy, f" in {Path.cwd()}")


def _amount(name: str, free: int, enough: int, remedy: str, where: str = "") -> Finding:
    value = f"{free / GIB:.1f} GiB{where}"
    return Finding(name, value) if free >= enough else Finding(name, value, "note", remedy)
