"""What users build: the package in a project of their own, TensorRT's headers of any major, one clean style."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import shutil
import sys
from ctypes import c_void_p
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsesam_deploy.engines.options import EngineOptions
from tests.engines.runtime.conftest import SOURCE, json_options, run
from tests.engines.runtime.folders import make_folder
from tests.engines.runtime.library import CHECK_FAILED, ENVIRONMENT, Library, Refused

CONSUMER = """
cmake_minimum_required(VERSION 3.18)
project(consumer LANGUAGES C CXX)
find_package(sparsesam 0.1 REQUIRED COMPONENTS {component})
add_executable(consumer_c main.c)
target_link_libraries(consumer_c PRIVATE sparsesam::{component})
set_target_properties(consumer_c PROPERTIES C_STANDARD 99 C_STANDARD_REQUIRED ON)
target_compile_options(consumer_c PRIVATE -Wall -Wextra -Wpedantic -Werror)
"""
CORE_C = """
#include <stdio.h>
#include <sparsesam/core.h>
int main(int argc, char** argv) {
  sparsesam_error error;
  sparsesam_status status = sparsesam_check_folder(argv[argc - 1], NULL, NULL, &error);
  printf("%s %d %s", sparsesam_version(), (int)status, error.message);
  return 0;
}
"""
RUNTIME_CPP = """
#include <iostream>
#include <sparsesam/engine.hpp>
int main(int, char** argv) {
  try {
    auto engine = sparsesam::Engine::load(argv[1]);
    auto context = engine.create_context();
  } catch (const sparsesam::Error& error) {
    std::cout << error.status() << " " << error.what();
  }
}
"""
RUNTIME_C = """
#include <stdio.h>
#include <sparsesam/runtime.h>
int main(int argc, char** argv) {
  sparsesam_options options = {sizeof(sparsesam_options), 0, NULL, NULL};
  sparsesam_engine* engine = NULL;
  sparsesam_error error;
  sparsesam_status status = sparsesam_engine_load(argv[argc - 1], &options, &engine, &error);
  printf("%d %s", (int)status, error.message);
  sparsesam_engine_destroy(engine);
  return 0;
}
"""
RUNTIME_TARGET = """
add_executable(consumer main.cpp)
target_link_libraries(consumer PRIVATE sparsesam::runtime)
target_compile_options(consumer PRIVATE -Wall -Wextra -Wpedantic -Werror)
"""


EXAMPLE = SOURCE.parents[1] / "examples" / "cpp"
KERNEL = """
#include "stand_in.h"
#include <cstring>
static int32_t compute(void*, int32_t count, const char* const* names, float* const* data, const int64_t*,
                       const int32_t*) {
  for (int32_t i = 0; i < count; ++i)
    if (std::strcmp(names[i], "low_res_masks") == 0)
      for (int p = 0; p < 4 * 65536; ++p) data[i][p] = p % 256 < 128 ? 5.0f : -5.0f;
  return 0;
}
__attribute__((constructor)) static void start() { stand_in_set_kernel(compute, nullptr); }
"""
"""In the place of the engines: the masks are positive left of the middle."""


def build_consumer(project: Path, prefix: Path, component: str, **sources: str) -> Path:
    project.mkdir()
    extra = RUNTIME_TARGET if "main.cpp" in sources else ""
    (project / "CMakeLists.txt").write_text(CONSUMER.format(component=component) + extra)
    for name, text in sources.items():
        (project / name).write_text(text)
    build = project / "build"
    configured = run("cmake", "-S", project, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}")
    assert configured.returncode == 0, configured.stderr
    built = run("ninja", "-C", build)
    assert built.returncode == 0, built.stdout
    return build


# --- without TensorRT --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def core_prefix(plain_build, tmp_path_factory):
    """The plain build, installed. Test programs are no part of the package and need not be built."""
    prefix = tmp_path_factory.mktemp("core_prefix")
    built = run("ninja", "-C", plain_build, "sparsesam-check")
    assert built.returncode == 0, built.stdout
    installed = run("cmake", "--install", plain_build, "--prefix", prefix)
    assert installed.returncode == 0, installed.stderr
    return prefix


def test_a_project_of_ones_own_uses_the_core(core_prefix, tmp_path):
    make_folder(tmp_path / "engine", builder="tensorrt-rtx", builder_version="1.7.1.116")
    build = build_consumer(tmp_path / "project", core_prefix, "core", **{"main.c": CORE_C})
    done = run(build / "consumer_c", tmp_path / "engine")
    assert done.stdout.startswith("0.1.0 1 ") and "was built by tensorrt-rtx" in done.stdout
    assert run(core_prefix / "bin" / "sparsesam-check", tmp_path / "engine").returncode == CHECK_FAILED


def test_the_package_says_what_it_lacks(core_prefix, tmp_path):
    with pytest.raises(AssertionError, match=r"sparsesam::runtime was not built; build engines/runtime\s+without"):
        build_consumer(tmp_path / "project", core_prefix, "runtime", **{"main.c": CORE_C})


def test_the_core_exports_its_c_functions_alone(plain_build):
    symbols = run("nm", "-D", "--defined-only", plain_build / "libsparsesam_core.so").stdout
    names = {line.split()[-1] for line in symbols.splitlines()}
    header = (SOURCE / "include" / "sparsesam" / "core.h").read_text()
    declared = set(re.findall(r"SPARSESAM_API [\w* ]+?(sparsesam_\w+)\(", header))
    assert {name for name in names if not name.startswith("_Z")} == declared
    assert not {name for name in names if "sparsesam" in name and name not in declared}


def test_missing_headers_are_one_clear_sentence(built_once, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TENSORRT_")}
    configured = run("cmake", "-S", SOURCE, "-B", tmp_path, *json_options(), "-DTENSORRT_INCLUDE_DIR=", env=environment)
    assert configured.returncode != 0
    text = " ".join(configured.stderr.split())
    if "TensorRT" not in text:
        assert "CUDA" in text, text
        pytest.skip("the CUDA toolkit is not installed, which is asked for first; apt install cuda-toolkit")
    assert "TensorRT's headers were not found; unpack NVIDIA's TensorRT tar" in text
    assert "-DSPARSESAM_CORE_ONLY=ON to build without TensorRT." in text


def write_photo(path: Path) -> None:
    """40 x 30 pixels of PPM."""
    path.write_bytes(b"P6 40 30 255\n" + bytes(range(120)) * 30)


def test_the_example_answers(plain_build, tmp_path):
    """`examples/cpp` on the stand-ins for TensorRT and CUDA: a mask of the photo's size, and refusals in one line."""
    (tmp_path / "kernel.cpp").write_text(KERNEL)
    tests, stand_in = plain_build / "tests", SOURCE / "tests" / "stand_in"
    strict = ("-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{SOURCE / 'include'}", f"-I{stand_in}")
    sources, library = (EXAMPLE / "segment.cpp", tmp_path / "kernel.cpp"), (f"-L{tests}", "-lsparsesam_stand_in")
    built = run("g++", *strict, *sources, "-o", tmp_path / "segment", *library, f"-Wl,-rpath,{tests}")
    assert built.returncode == 0, built.stderr
    make_folder(tmp_path / "engine")
    write_photo(tmp_path / "photo.ppm")
    words = (tmp_path / "photo.ppm", "1", "2", "30", "20", tmp_path / "mask.pgm")
    done = run(tmp_path / "segment", tmp_path / "engine", *words)
    assert (done.returncode, done.stderr) == (0, "")
    expected = np.zeros((30, 40), np.uint8)
    expected[:, :20] = 1
    assert (tmp_path / "mask.pgm").read_bytes() == b"P5 40 30 1\n" + expected.tobytes()
    (tmp_path / "photo.ppm").write_bytes(b"P6 40 31 255\n" + bytes(3600))
    short = run(tmp_path / "segment", tmp_path / "engine", *words)
    assert (short.returncode, short.stderr) == (2, "error: the photo is no 8-bit PPM (P6).\n")


def test_leaving_the_runtime_out_is_said_aloud(built_once, tmp_path):
    configured = run("cmake", "-S", SOURCE, "-B", tmp_path, *json_options(), "-DSPARSESAM_CORE_ONLY=ON")
    assert configured.returncode == 0
    assert "SPARSESAM_CORE_ONLY: sparsesam::runtime and sparsesam-run are not built." in configured.stderr


def test_one_version_everywhere():
    version = re.search(r'^version = "(.+)"$', (SOURCE.parents[1] / "pyproject.toml").read_text(), re.MULTILINE)[1]
    header = (SOURCE / "include" / "sparsesam" / "core.h").read_text()
    parts = [re.search(rf"VERSION_{part} (\d+)", header)[1] for part in ("MAJOR", "MINOR", "PATCH")]
    assert ".".join(parts) == version


# --- with TensorRT's headers -------------------------------------------------------------------------------------


def headers() -> Path | None:
    """TensorRT's headers, from the environment."""
    candidates = [os.environ.get("TENSORRT_INCLUDE_DIR"), os.environ.get("TENSORRT_ROOT")]
    folders = [Path(name) / suffix for name in candidates if name for suffix in ("", "include")]
    return next((folder for folder in folders if (folder / "NvInferRuntime.h").is_file()), None)


def runtime_library() -> Path | None:
    """The full library from the environment, else the lean one from PyPI."""
    if "TENSORRT_LIBRARY" in os.environ:
        return Path(os.environ["TENSORRT_LIBRARY"])
    if "TENSORRT_ROOT" in os.environ:
        found = sorted(Path(os.environ["TENSORRT_ROOT"]).glob("lib/libnvinfer.so"))
        return found[0] if found else None
    lean = importlib.util.find_spec("tensorrt_lean_libs")
    found = sorted(Path(lean.origin).parent.glob("libnvinfer_lean.so.*")) if lean and lean.origin else []
    return found[0] if found else None


@pytest.fixture(scope="module")
def runtime_build(built_once):
    if headers() is None:
        pytest.skip("TensorRT's headers are not here; set TENSORRT_ROOT or TENSORRT_INCLUDE_DIR")
    if runtime_library() is None:
        pytest.skip("no TensorRT library to link; set TENSORRT_LIBRARY or pip install tensorrt-lean-cu13-libs")
    options = (f"-DTENSORRT_INCLUDE_DIR={headers()}", f"-DTENSORRT_LIBRARY={runtime_library()}")
    return built_once(
        "runtime", *options, "-DSPARSESAM_WERROR=ON", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"
    )


def majors_differ() -> str | None:
    version = re.search(r"TRT_MAJOR_ENTERPRISE (\d+)", (headers() / "NvInferVersion.h").read_text())[1]
    library = re.search(r"\.so\.(\d+)", str(runtime_library().resolve()))
    if library and library[1] != version:
        return f"headers of TensorRT {version}, library of {library[1]}; set TENSORRT_LIBRARY to the headers' own"
    return None


@pytest.fixture
def loadable(tmp_path) -> Path:
    """A folder with nothing wrong but that its engine is none, for any TensorRT from 10.13 on."""
    make_folder(tmp_path / "engine", engine_options=EngineOptions(version_compatible=True), plugins=())
    return tmp_path / "engine"


@pytest.fixture
def no_gpu():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU; the refusal without one cannot be seen")


def test_without_a_driver_nothing_is_created(runtime_build, loadable, no_gpu):
    if reason := majors_differ():
        pytest.skip(reason)
    library = Library(runtime_build / "libsparsesam_runtime.so")
    engine = c_void_p(1)
    with pytest.raises(Refused, match=r"CUDA cannot find a GPU \(.*\); install NVIDIA's driver") as caught:
        library.call("engine_load", str(loadable).encode(), None, ctypes.byref(engine))
    assert caught.value.status == ENVIRONMENT
    assert engine.value is None


def test_headers_of_another_major_are_found_out(runtime_build, loadable):
    if majors_differ() is None:
        pytest.skip("headers and library are of one major; set TENSORRT_INCLUDE_DIR to another's to see the refusal")
    library = Library(runtime_build / "libsparsesam_runtime.so")
    with pytest.raises(Refused, match=r"was compiled for TensorRT \d+, but TensorRT [\d.]+ is loaded; compile it"):
        library.call("engine_load", str(loadable).encode(), None, ctypes.byref(c_void_p()))


def test_the_command_refuses_what_does_not_belong_here(runtime_build, loadable, tmp_path):
    """The real command, linked with the real library: the folder's faults come first, also without a GPU."""
    Image.new("RGB", (40, 30)).save(tmp_path / "in.png")
    words = (tmp_path / "in.png", "--box", "1,2,30,20", "-o", tmp_path / "mask.png")
    engine = (loadable / "encoder.engine").read_bytes()
    (loadable / "encoder.engine").write_bytes(engine[::-1])
    if majors_differ() is None:
        edited = run(runtime_build / "sparsesam-run", loadable, *words)
        assert edited.returncode == 1 and "encoder.engine has changed since its manifest was written" in edited.stderr
    if "lean" in runtime_library().name:
        make_folder(tmp_path / "tied")
        tied = run(runtime_build / "sparsesam-run", tmp_path / "tied", *words)
        assert tied.returncode == 1 and "linked with TensorRT's lean runtime; link with libnvinfer or" in tied.stderr
    make_folder(tmp_path / "rtx", builder="tensorrt-rtx", builder_version="1.7.1.116")
    rtx = run(runtime_build / "sparsesam-run", tmp_path / "rtx", *words)
    assert rtx.returncode == 1
    assert "was built by tensorrt-rtx 1.7.1.116, but this runtime runs engines of tensorrt; rebuild" in rtx.stderr
    assert not (tmp_path / "mask.png").exists()


def test_a_project_of_ones_own_uses_the_runtime(runtime_build, tmp_path):
    prefix = tmp_path / "prefix"
    assert run("cmake", "--install", runtime_build, "--prefix", prefix).returncode == 0
    sources = {"main.c": RUNTIME_C, "main.cpp": RUNTIME_CPP}
    build = build_consumer(tmp_path / "project", prefix, "runtime", **sources)
    make_folder(tmp_path / "rtx", builder="tensorrt-rtx", builder_version="1.7.1.116")
    for program in ("consumer", "consumer_c"):
        done = run(build / program, tmp_path / "rtx")
        assert done.stdout.startswith("1 ") and "tensorrt-rtx" in done.stdout, done.stderr
    assert run(prefix / "bin" / "sparsesam-run", "--version").stdout == "sparsesam-run 0.1.0\n"
    example = tmp_path / "example"
    configured = run("cmake", "-S", EXAMPLE, "-B", example, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}")
    assert configured.returncode == 0, configured.stderr
    assert run("ninja", "-C", example).returncode == 0
    write_photo(tmp_path / "photo.ppm")
    done = run(example / "segment", tmp_path / "rtx", tmp_path / "photo.ppm", *"1234", tmp_path / "mask.pgm")
    assert done.returncode == CHECK_FAILED and "tensorrt-rtx" in done.stderr, done.stderr


# --- style -------------------------------------------------------------------------------------------------------


def clang_tidy() -> str | None:
    return shutil.which("clang-tidy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def test_clang_tidy(plain_build):
    """Every source of the library and the commands; those that run engines as the stand-in compiles them."""
    if clang_tidy() is None:
        pytest.skip("clang-tidy is not installed; pip install clang-tidy")
    commands = json.loads((plain_build / "compile_commands.json").read_text())
    sources = {entry["file"] for entry in commands if "/runtime/src/" in entry["file"] or "/command/" in entry["file"]}
    assert len(sources) == len([*SOURCE.glob("src/*/*.cpp"), *SOURCE.glob("command/*.cpp")])
    done = run(clang_tidy(), "--quiet", "-p", plain_build, *sorted(sources))
    assert done.returncode == 0, done.stdout[-6000:]
