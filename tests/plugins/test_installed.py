"""The installed plugin library: what other programs are told to load, and that pip installs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparsesam_deploy import plugin_library as plugins


def test_plugin_path_prints_what_other_programs_take(build, headers, sparsesam_export, monkeypatch):
    library = build / plugins.LIBRARY
    monkeypatch.setenv(plugins.VARIABLE, str(library))
    assert sparsesam_export("plugin-path").out == f"{library}\n"
    assert sparsesam_export("plugin-path", "--register").out == f"{build / plugins.REGISTER}\n"
    printed = json.loads(sparsesam_export("plugin-path", "--json").out)
    version = (Path(headers) / "NvInferVersion.h").read_text()
    assert printed["tensorrt_major"] == int(re.search(r"(?:NV_TENSORRT_MAJOR|TRT_MAJOR_ENTERPRISE) (\d+)", version)[1])
    assert str(library) in printed["commands"]["trtexec"]
    for host in ("polygraphy", "tritonserver", "onnxruntime"):
        assert str(build / plugins.REGISTER) in printed["commands"][host]


def test_pip_installs_it(headers, tmp_path):
    """``SPARSESAM_NATIVE=1 pip install .``: a wheel with both libraries, one finding the other from where it lies."""
    root = Path(plugins.__file__).parents[1]
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", "built", "__pycache__", "tests", "docs", "runtime")
    shutil.copytree(root, source, ignore=ignored)
    settings = {
        "cmake.define.TENSORRT_INCLUDE_DIR": headers,
        "cmake.define.Python3_EXECUTABLE": sys.executable,
        "cmake.define.SPARSESAM_MODELS": "nano",
        "cmake.define.SPARSESAM_ELEMENTS": "fp16",
        "cmake.define.SPARSESAM_CAPABILITIES": "9.0",
    }
    command = [sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "-w", tmp_path]
    pytest.importorskip("scikit_build_core", reason="scikit-build-core is not installed in this environment")
    options = [f"-C{name}={value}" for name, value in settings.items()]

    environment = {**os.environ, "SPARSESAM_NATIVE": "1"}
    built = subprocess.run([*command, *options], env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "unpacked", "zip")
    folder = tmp_path / "unpacked" / "sparsesam_deploy" / "plugins"
    assert {plugins.LIBRARY, plugins.REGISTER} <= {path.name for path in folder.iterdir()}
    linked = subprocess.run(["ldd", folder / plugins.REGISTER], capture_output=True, text=True, check=True).stdout
    assert f"{plugins.LIBRARY} => {folder / plugins.LIBRARY}" in linked
