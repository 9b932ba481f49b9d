"""The library in a real TensorRT registry, that of the lean runtime, which needs no GPU for it."""

from __future__ import annotations

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from checks.plugin_host import HOST, LIBRARY, drive, node_script, run_host
from tests.ops.test_plugin_contract import table

REGISTER = "libsparsesam_plugins_register.so"
ATTRIBUTES = {name: attributes.split() for name, _, attributes, _ in table("Nodes")}
"""By node type, as ``docs/tensorrt.md`` says."""
COUNTS = {name for attributes in ATTRIBUTES.values() for name in attributes} - {"num_heads", "scale", "epsilon"}
"""What may be 0, and no more than there are tokens."""
GOOD = {"num_heads": 6, "scale": 0.125, "epsilon": 1e-6, **dict.fromkeys(COUNTS, 0)}
KINDS = {name: {int: "int32", float: "float32"}[type(value)] for name, value in GOOD.items()}


@pytest.fixture(scope="module")
def runtime(headers: str) -> Path:
    """The lean runtime of the headers' major release."""
    spec = find_spec("tensorrt_lean_libs")
    version = (Path(headers) / "NvInferVersion.h").read_text()
    major = re.search(r"define (?:NV_TENSORRT_MAJOR|TRT_MAJOR_ENTERPRISE) (\d+)", version)[1]
    found = list(Path(next(iter(spec.submodule_search_locations))).glob(f"libnvinfer_lean.so.{major}")) if spec else []
    if not found:
        pytest.skip(f"no lean runtime of TensorRT {major}: pip install tensorrt-lean-cu13-libs for 11")
    return found[0]


def good(node_type: str) -> dict[str, int | float]:
    attributes = {name: GOOD[name] for name in ATTRIBUTES[node_type]}
    return attributes | ({"lattice_offsets": 64} if node_type == "StripeAttentionDense" else {})


@pytest.mark.parametrize("library", [LIBRARY, REGISTER])
def test_every_creator_is_found(library, build, runtime):
    """By ``loadLibrary``, and by the shim for hosts that only dlopen."""
    lines = drive([build / HOST, build / library, runtime], ["creators"])
    found = {words[1]: (words[2], words[3], words[4:]) for words in map(str.split, lines) if words[0] == "creator"}
    assert found == {
        name: ("'1'", "''", [f"{attribute}:{KINDS[attribute]}" for attribute in attributes])
        for name, attributes in ATTRIBUTES.items()
    }


@pytest.mark.parametrize("phase", ["build", "runtime"])
@pytest.mark.parametrize("node_type", ATTRIBUTES)
def test_fields_survive_serialisation_and_cloning(node_type, phase, build, runtime):
    """Read back from the plugin, from another made of its serialised fields, and from a clone that outlives it."""
    attributes = good(node_type)
    lines = run_host(build, [*node_script(node_type, attributes), f"create {phase}"], runtime)
    fields = "".join(f" {name}:{KINDS[name]}={value:g}" for name, value in attributes.items())
    assert f"created {node_type}{fields}" in lines
    assert f"again{fields}" in lines and f"clone{fields}" in lines


def refused() -> list:
    cases = []
    for node_type, attributes in ATTRIBUTES.items():
        for name in attributes:
            other = "float32" if KINDS[name] == "int32" else "int32"
            bad = {
                "missing": None,
                "of another type": f"{other} {name} 1",
                "null": f"null {name} 0",
                "two": f"pair {name} 1",
            }
            values = dict.fromkeys(COUNTS, (-1, 2**30)) | {"num_heads": (0, -1, 2**30), "lattice_offsets": (-1, 65)}
            for value in values.get(name, ("nan", "inf", 0, -1)):
                bad[f"{value}"] = f"{KINDS[name]} {name} {value}"
            cases += [
                pytest.param(node_type, name, line, id=f"{node_type}-{name}-{case}") for case, line in bad.items()
            ]
    return cases


def test_bad_fields_are_refused_by_name(build):
    """Every field of every node: a null plugin and one line in the log that names the field, never a crash."""
    script, expected = [], []
    for node_type, name, line in (case.values for case in refused()):
        rest = {key: value for key, value in good(node_type).items() if key != name}
        script += [*node_script(node_type, rest), *([f"field {line}"] if line else []), "create build"]
        expected.append((node_type, name))
    lines = run_host(build, script)
    assert lines[1::2] == ["null"] * len(expected)
    for (node_type, name), line in zip(expected, lines[::2], strict=True):
        assert line.startswith(f"log 1 sparsesam: {node_type} of layer layer: field {name} is "), line
        assert "export the ONNX file again" in line


def test_plugins_of_other_lattices_have_other_timing_cache_ids(build):
    lines = []
    for offsets in (16, 26):
        attributes = {**good("StripeAttention"), "lattice_offsets": offsets}
        lines += run_host(build, [*node_script("StripeAttention", attributes), "create build"])
    first, second = (line for line in lines if line.startswith("timing_cache_id"))
    assert first != second and first.split()[1] == "StripeAttention" and len(first.split()[2]) == 16


def test_the_library_needs_neither_cuda_nor_tensorrt(build):
    linked = subprocess.run(["ldd", build / LIBRARY], capture_output=True, text=True, check=True).stdout
    assert "not found" not in linked and not re.search("cuda|nvinfer", linked)


def test_the_shim_takes_no_other_librarys_creators(build, runtime, tmp_path):
    """Every plugin library exports ``getCreators``; one that was loaded before must not answer in our place."""
    source = 'extern "C" void* getCreators(int& n) { n = 0; return nullptr; } extern "C" void setLoggerFinder(void*) {}'
    (tmp_path / "other.cpp").write_text(source)
    other = tmp_path / "libother.so"
    subprocess.run(["g++", "-shared", "-fPIC", tmp_path / "other.cpp", "-o", other], check=True)
    command = [build / HOST, build / REGISTER, runtime]
    assert drive(command, ["creators"], {"LD_PRELOAD": str(other)}) == drive(command, ["creators"])


def test_the_shim_without_tensorrt_says_so(build):
    command = ["python3", "-c", f"import ctypes; ctypes.CDLL({str(build / REGISTER)!r})"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0
    assert "is not loaded in this process, nothing was registered" in result.stderr
