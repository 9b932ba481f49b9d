"""Finding TensorRT's headers, or saying how to get them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.plugins.conftest import PLUGINS, configure


def test_without_headers_cmake_says_how_to_get_them(tmp_path):
    if Path("/usr/include/x86_64-linux-gnu/NvInferRuntime.h").exists():
        pytest.skip("this machine has TensorRT's headers installed")
    result = configure(tmp_path)
    assert result.returncode != 0
    message = " ".join(result.stderr.split())
    assert "TensorRT's C++ headers were not found (NvInferRuntime.h)" in message
    assert "libnvinfer-headers-dev" in message and "-DTENSORRT_INCLUDE_DIR=" in message


@pytest.mark.parametrize("how", ["option", "variable"])
def test_tensorrt_root_works_too(how, headers, tmp_path):
    root = Path(headers).parent
    if Path(headers).name != "include":
        pytest.skip("TENSORRT_INCLUDE_DIR is no include/ of a TensorRT folder")
    options, environment = ((f"-DTENSORRT_ROOT={root}",), {}) if how == "option" else ((), {"TENSORRT_ROOT": str(root)})
    result = configure(tmp_path, *options, **environment)
    assert result.returncode == 0, result.stderr
    assert f"{headers}" in result.stdout


def test_both_majors_compile(headers, build):
    """The library's sources with every TensorRT that lies beside the headers in use: trt10/ beside trt11/."""
    folders = [path.parent for path in Path(headers).parents[1].glob("*/include/NvInferRuntime.h")]
    if len(folders) < 2:
        pytest.skip(f"headers of one release only: unpack another beside {Path(headers).parent}")
    cuda = next(
        line.split("=", 1)[1]
        for line in (build / "CMakeCache.txt").read_text().splitlines()
        if line.startswith("CUDAToolkit_BIN_DIR")
    )
    includes = [f"-I{build / 'kernels'}", f"-I{PLUGINS / 'src'}", f"-isystem{Path(cuda).parent / 'include'}"]
    for folder in folders:
        for source in (*PLUGINS.glob("src/*.cpp"), *PLUGINS.glob("shim/*.cpp")):
            command = [
                "g++",
                "-std=c++17",
                "-fsyntax-only",
                "-Wall",
                "-Wextra",
                "-Werror",
                f"-isystem{folder}",
                *includes,
            ]
            result = subprocess.run([*command, source], capture_output=True, text=True)
            assert result.returncode == 0, result.stderr[:2000]
