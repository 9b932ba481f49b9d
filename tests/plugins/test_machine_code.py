"""The embedded blob: every kernel in it as NVIDIA's own tools read it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from checks.plugin_host import LIBRARY

REPORT = Path(__file__).parents[2] / "docs" / "results" / "kernel_resources.json"


@pytest.fixture(scope="module")
def images(build) -> list[dict]:
    return json.loads((build / "kernels" / "kernels.json").read_text())


def code(build: Path, image: dict) -> bytes:
    blob = (build / "kernels" / "kernels.bin").read_bytes()
    return blob[image["offset"] : image["offset"] + image["size"]]


def test_the_library_carries_the_blob(build):
    assert (build / "kernels" / "kernels.bin").read_bytes() in (build / LIBRARY).read_bytes()


def test_machine_code_is_what_the_committed_report_says(build, images, tmp_path):
    """cuobjdump reads each cubin: its function, registers as in the report of all GPUs, nothing spilled."""
    from triton import knobs

    report = {
        (row["kernel"], row["width"], row["dtype"], row["compute_capability"]): row
        for row in json.loads(REPORT.read_text())["kernels"]
    }
    cubins = [image for image in images if image["capability"]]
    assert len(cubins) == 16
    for image in cubins:
        path = tmp_path / "kernel.cubin"
        path.write_bytes(code(build, image))
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", path]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", listing).groups())
        capability = f"{image['capability'] // 10}.{image['capability'] % 10}"
        row = report[image["kernel"], image["width"], image["element"], capability]
        assert (registers, stack) == (row["registers"], 0), image
        assert (image["shared"], image["num_warps"]) == (row["shared"], row["num_warps"])
        assert f"Function {image['function']}" in listing


@pytest.mark.parametrize("architecture", ["sm_80", "sm_87", "sm_90", "sm_103", "sm_121"])
def test_the_fallback_compiles_for_gpus_without_code_of_their_own(architecture, build, images, tmp_path):
    """PTX that a driver of CUDA 12.0 reads, as the driver of each GPU would compile it."""
    from triton import knobs

    image = next(image for image in images if not image["capability"] and image["kernel"] == "window")
    text = code(build, image)
    assert text.endswith(b"\0") and b".version 8.0" in text and b".target sm_80" in text
    path = tmp_path / "kernel.ptx"
    path.write_bytes(text.rstrip(b"\0"))
    ptxas = knobs.nvidia.ptxas_blackwell.path if hasattr(knobs.nvidia, "ptxas_blackwell") else knobs.nvidia.ptxas.path
    subprocess.run(
        [ptxas, f"-arch={architecture}", path, "-o", tmp_path / "out.cubin"], check=True, capture_output=True
    )
