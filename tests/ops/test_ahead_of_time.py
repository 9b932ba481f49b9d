"""Every kernel compiled for the GPUs we build for, none of which is here, and what the compiler says about it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kernel_resources import EMBED_DIMS, HEAD_DIMS, sources_sha256
from sparsesam_deploy.errors import EnvironmentProblem
from sparsesam_deploy.ops import triton_language
from sparsesam_deploy.ops.ahead_of_time import CAPABILITIES, attention_variants, compile_variant, routed_mlp_variants

REPORT = Path(__file__).parents[2] / "docs" / "results" / "kernel_resources.json"
MATRIX_UNITS = {"9.0": "wgmma.mma_async", "10.0": "tcgen05.mma"}


def check(row: dict) -> None:
    """That one kernel compiled into what it is meant to be."""
    name = f"{row['kernel']} of width {row['width']} on {row['compute_capability']}"
    assert row["stack"] == 0, f"{name} spills registers"
    assert 0 < row["registers"] <= 255 and row["cubin_bytes"] > 1000, name
    if row["width"] not in HEAD_DIMS:
        return
    if row["kernel"] != "relative_terms_windowed":  # lines of 14 are too short for a warp group
        assert MATRIX_UNITS.get(row["compute_capability"], "mma.sync") in row["matrix_units"], name
    if not row["kernel"].startswith("relative_terms"):
        assert row["async_16_bytes"], f"{name} loads keys in narrow pieces"


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_no_kernel_spills_on(capability: str):
    """Every kernel, by the committed report of the compiler, which must be of the kernels as they are now."""
    report = json.loads(REPORT.read_text())
    assert report["sources_sha256"] == sources_sha256(), "run python -m benchmarks.kernel_resources anew"
    rows = [row for row in report["kernels"] if row["compute_capability"] == capability]
    expected = {(variant.name, width) for width in HEAD_DIMS for variant in attention_variants(width)}
    expected |= {(variant.name, width) for width in EMBED_DIMS for variant in routed_mlp_variants(width)}
    assert {(row["kernel"], row["width"]) for row in rows} == expected
    for row in rows:
        check(row)


def test_the_compiler_says_so(tmp_path):
    """One GPU and width compiled now, by the command that writes the report, in a process that does not interpret."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    options = ("--capability", "9.0", "--head-dim", "80", "--embed-dim", "1280", "--json", tmp_path / "kernels.json")
    command = (sys.executable, "-m", "benchmarks.kernel_resources", *options)
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "kernels.json").read_text())["kernels"]
    assert len(rows) == len(attention_variants(80)) + len(routed_mlp_variants(1280))
    for row in rows:
        check(row)


def test_interpreted_kernels_are_not_compiled():
    if not triton_language.INTERPRETED.value:
        pytest.skip("kernels are compiled here")
    with pytest.raises(EnvironmentProblem, match="unset TRITON_INTERPRET"):
        compile_variant(attention_variants(64)[0], "9.0", "fp16")
