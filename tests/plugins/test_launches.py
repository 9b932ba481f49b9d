"""What the plugins' C++ code launches, carried out by Triton's interpreter, computes what the reference computes."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from checks.plugin_host import TENSORRT_TYPES, HostFailed, input_lines, node_script, run_host
from checks.plugin_nodes import PACKS, STRIPES, Node, attention_node, pack_node, unpack_node
from sparsesam_deploy.model.config import FAMILIES, SamConfig
from tests.plugins import replay

TOLERANCE = 1.5e-3
"""Relative L2 in float16, as of the kernels themselves."""
ONE_HEAD = SamConfig("custom", 64, 1, 1, (0,))
"""An attention of the head_dim that the library is built for; interpreted kernels take their time."""
ONE_IMAGE = {*STRIPES, "skip, sobel"} - {"lattice", "window, dense"}
"""What takes long: of attention, two images are for one case of each C++ function that computes a grid."""
NODES = {
    **{name: partial(attention_node, name, ONE_HEAD, torch.float16, 2 - (name in ONE_IMAGE)) for name in STRIPES},
    **{name: partial(pack_node, name, FAMILIES["nano"], torch.float16, 2 - (name in ONE_IMAGE)) for name in PACKS},
    "unpack": partial(unpack_node, FAMILIES["nano"], torch.float16, 2),
}


def enqueue(build, folder, node: Node, capability: str = "90") -> list[str]:
    """Describe and run the node on the stand-in; the host's answers."""
    script = [*node_script(node.node_type, node.attributes), *input_lines(node, folder), "describe 2"]
    script.append(f"run plain {folder}/out")
    return run_host(build, script, environment=replay.environment(build, folder, capability))


@pytest.mark.parametrize("name", NODES)
def test_launches_compute_what_the_reference_does(name, build, tmp_path):
    node = NODES[name]()
    answers = enqueue(build, tmp_path, node)
    assert "configure 0" in answers and "enqueue 0" in answers, answers
    formats = next(line for line in answers if line.startswith("formats")).split()[1:]
    assert formats == ["10"] * (len(node.inputs) + len(node.expected))  # linear: yes, any other: no
    memory = replay.memory(tmp_path)
    for launch in replay.launches(build, tmp_path):
        replay.run(launch, memory)
    outputs = [list(map(int, line.split()[1:])) for line in answers if line.startswith("output ")]
    addresses = [int(line.split()[1], 16) for line in answers if line.startswith("address ")]
    found = []
    for (data_type, *shape), address, right in zip(outputs, addresses, node.expected, strict=True):
        assert shape == list(right.shape)
        flat = memory[address - replay.BASE :].view(TENSORRT_TYPES[data_type])
        found.append(flat[: right.numel()].view(shape))
    assert max(node.errors(found)) <= TOLERANCE


def test_a_gpu_without_machine_code_takes_ptx_and_says_so(build, tmp_path):
    answers = enqueue(build, tmp_path, NODES["unpack"](), capability="103")
    (warning,) = (line for line in answers if line.startswith("log 2"))
    assert "no machine code for compute capability 10.3" in warning and "PTX" in warning
    (launch,) = replay.launches(build, tmp_path)
    assert launch.image["capability"] == 0 and "enqueue 0" in answers


def test_a_gpu_too_old_is_refused(build, tmp_path):
    answers = enqueue(build, tmp_path, NODES["unpack"](), capability="75")
    assert "onShapeChange failed" in answers
    assert any("compute capability 7.5, but the kernels need 8.0" in line for line in answers)


def test_without_a_driver_nothing_runs(build, tmp_path):
    """The host itself needs a driver to allocate memory, so it stops before a plugin could."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a driver")
    node = NODES["unpack"]()
    script = [*node_script(node.node_type, node.attributes), *input_lines(node, tmp_path), "describe 2", "run plain x"]
    with pytest.raises(HostFailed, match="cuInit"):
        run_host(build, script)


def test_libraries_are_unloaded_with_the_last_plugin(build, tmp_path):
    enqueue(build, tmp_path, NODES["lattice"]())
    lines = (tmp_path / "launches").read_text().splitlines()
    prepared = [line for line in lines if line.startswith("attribute")]
    assert len(prepared) == 2  # a second onShapeChange of the same shapes prepares nothing anew
    loaded, unloaded = len(list(tmp_path.glob("library*"))), [line for line in lines if line.startswith("unload")]
    assert loaded == len(unloaded) == len(set(unloaded)) == 2
