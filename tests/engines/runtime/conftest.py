"""Builds of the C++ runtime, made once for all tests and workers: plain, and with address and undefined sanitisers."""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from sparsesam_deploy.model.image import read_image
from tests.engines.runtime.library import INVALID_INPUT, Library

SOURCE = Path(__file__).parents[3] / "engines" / "runtime"
SANITISERS = "address,undefined"


def missing_tools() -> str | None:
    """What this machine lacks to build the runtime, with the remedy; None when it can."""
    for tool in ("cmake", "ninja", "g++"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed; apt install cmake ninja-build g++"
    for header, package in {"openssl/evp.h": "libssl-dev", "png.h": "libpng-dev", "jpeglib.h": "libjpeg-dev"}.items():
        if not Path("/usr/include", header).exists():
            return f"{header} is not installed; apt install {package}"
    if json_include() is None and not Path("/usr/include/nlohmann/json.hpp").exists():
        return "nlohmann/json.hpp is not installed; apt install nlohmann-json3-dev or pip install nlohmann-json"
    return None


def json_include() -> Path | None:
    """Where the wheel of nlohmann/json keeps its headers."""
    found = importlib.util.find_spec("nlohmann_json")
    return Path(found.origin).parent / "include" if found is not None and found.origin else None


def json_options() -> list[str]:
    """CMake options that find nlohmann/json: none where its package is installed."""
    if Path("/usr/include/nlohmann/json.hpp").exists():
        return []
    return [f"-DNLOHMANN_JSON_INCLUDE_DIR={json_include()}"]


def run(*command: object, **options) -> subprocess.CompletedProcess:
    """Run a command to its end; output as text. A command that fails is the caller's business."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)


def cmake_build(folder: Path, *options: str, targets: tuple[str, ...] = ("all",)) -> Path:
    """Configure and build; the compiler's output is the failure's message."""
    configure = run("cmake", "-S", SOURCE, "-B", folder, "-G", "Ninja", *json_options(), *options)
    assert configure.returncode == 0, configure.stdout + configure.stderr
    build = run("ninja", "-C", folder, "-j2", *targets)
    assert build.returncode == 0, build.stdout + build.stderr
    return folder


@pytest.fixture(scope="session")
def built_once(tmp_path_factory) -> Callable[..., Path]:
    """Build into a folder that all workers share; the first one builds."""
    reason = missing_tools()
    if reason is not None:
        pytest.skip(reason)
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "sparsesam_runtime"
    shared.mkdir(exist_ok=True)

    def build(name: str, *options: str, targets: tuple[str, ...] = ("all",)) -> Path:
        with FileLock(shared / f"{name}.lock"):
            return cmake_build(shared / name, *options, targets=targets)

    return build


CORE = (
    "-DSPARSESAM_CORE_ONLY=ON",
    "-DSPARSESAM_WERROR=ON",
    "-DSPARSESAM_TESTS=ON",
    "-DCMAKE_BUILD_TYPE=None",
    "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
)


@pytest.fixture(scope="session")
def plain_build(built_once) -> Path:
    return built_once("plain", *CORE, "-DCMAKE_CXX_FLAGS=-O1", targets=("sparsesam_core", "sparsesam_stand_in"))


@pytest.fixture(scope="session")
def sanitised_build(built_once) -> Path:
    return built_once("sanitised", *CORE, "-DCMAKE_CXX_FLAGS=-O0", f"-DSPARSESAM_SANITISE={SANITISERS}")


@pytest.fixture(scope="session")
def core(plain_build) -> Library:
    """`sparsesam::core`, through its C functions."""
    return Library(plain_build / "libsparsesam_core.so")


@pytest.fixture(scope="session")
def stand_in(plain_build) -> Library:
    """The runtime on stand-ins for TensorRT and CUDA, through its C functions."""
    return Library(plain_build / "tests" / "libsparsesam_stand_in.so")


@pytest.fixture
def decode(sanitised_build, tmp_path) -> Callable[[bytes], np.ndarray | str]:
    """What `sparsesam-run` reads of a file's content: the pixels, or why there are none."""

    def decode(content: bytes) -> np.ndarray | str:
        (tmp_path / "image").write_bytes(content)
        probe, strict = sanitised_build / "tests" / "image_probe", {"ASAN_OPTIONS": "max_allocation_size_mb=600"}
        done = run(probe, tmp_path / "image", tmp_path / "out.raw", env=strict)
        if done.returncode != 0:
            assert (done.returncode, done.stderr.count("\n")) == (INVALID_INPUT, 1), done.stderr
            return done.stderr
        raw = (tmp_path / "out.raw").read_bytes()
        height, width = struct.unpack("<ii", raw[:8])
        return np.frombuffer(raw[8:], np.uint8).reshape(height, width, 3)

    return decode


@pytest.fixture
def pillow(tmp_path) -> Callable[[bytes], np.ndarray]:
    """What the Python package reads of a file's content."""

    def pillow(content: bytes) -> np.ndarray:
        (tmp_path / "pillow").write_bytes(content)
        return read_image(tmp_path / "pillow")

    return pillow
