"""The plugin library, built once for a few kernels, where there are TensorRT headers to build it with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[2] / "plugins"
NO_HEADERS = (
    "no TensorRT headers: set TENSORRT_INCLUDE_DIR to the folder with NvInferRuntime.h, "
    "which NVIDIA's packages and github.com/NVIDIA/TensorRT have"
)


def configure(build: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run cmake for ``plugins/``, without a TensorRT that the environment names unless it is given here."""
    clean = {key: value for key, value in os.environ.items() if key not in ("TENSORRT_ROOT", "TENSORRT_INCLUDE_DIR")}
    command = ["cmake", "-S", PLUGINS, "-B", build, f"-DPython3_EXECUTABLE={sys.executable}", *options]
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True)


@pytest.fixture(scope="session")
def headers() -> str:
    """The folder of the headers, or the whole test is skipped."""
    root = os.environ.get("TENSORRT_ROOT")
    folder = os.environ.get("TENSORRT_INCLUDE_DIR") or (f"{root}/include" if root else "")
    if not folder:
        pytest.skip(NO_HEADERS)
    return folder


@pytest.fixture(scope="session")
def build(headers: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library, the host program and the stand-in for the driver; one model, float16, one GPU."""
    folder = tmp_path_factory.mktemp("plugins")
    few = ("-DSPARSESAM_MODELS=nano", "-DSPARSESAM_ELEMENTS=fp16", "-DSPARSESAM_CAPABILITIES=9.0")
    configured = configure(folder, f"-DTENSORRT_INCLUDE_DIR={headers}", "-DSPARSESAM_PLUGIN_TESTS=ON", *few)
    assert configured.returncode == 0, configured.stderr
    built = subprocess.run(["cmake", "--build", folder, "--parallel", "2"], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-4000:] + built.stderr[-4000:]
    return folder
