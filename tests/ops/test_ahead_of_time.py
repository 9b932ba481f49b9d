"""Every kernel compiled for the GPUs we build for, none of which is here, and what the compiler says about it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from sparsesam_deploy.errors import EnvironmentProblem
from sparsesam_deploy.ops import triton_language
from sparsesam_deploy.ops.ahead_of_time import attention_variants, compile_variant

MATRIX_UNITS = {"9.0": "wgmma.mma_async", "10.0": "tcgen05.mma"}
WITHOUT_MATRICES = 6
"""Kernels around a routed MLP."""


@pytest.mark.parametrize(
    ("capability", "head_dim"),
    [("8.0", 80), ("8.6", 64), ("8.9", 64), ("9.0", 80), ("10.0", 64), ("12.0", 80)],
    ids=lambda value: str(value),
)
def test_kernels_compile_and_do_not_spill(capability: str, head_dim: int, tmp_path):
    """In a process of its own, because here kernels are interpreted."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    options = ("--capability", capability, "--head-dim", str(head_dim), "--embed-dim", "1280")
    command = (sys.executable, "-m", "benchmarks.kernel_resources", *options, "--json", tmp_path / "kernels.json")
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "kernels.json").read_text())["kernels"]
    attention = [row for row in rows if row["width"] == head_dim]
    assert len(rows) - len(attention) == WITHOUT_MATRICES
    assert {row["kernel"] for row in attention} == {variant.name for variant in attention_variants(head_dim)}
    assert [row["kernel"] for row in rows if row["stack"]] == []
    for row in attention:
        assert 0 < row["registers"] <= 255 and row["cubin_bytes"] > 1000
        if row["kernel"] != "relative_terms_windowed":  # lines of 14 are too short for a warp group
            assert row["matrix_unit"] == MATRIX_UNITS.get(capability, "mma.sync"), row["kernel"]
        if not row["kernel"].startswith("relative_terms"):
            assert row["async_16_bytes"], row["kernel"]


def test_interpreted_kernels_are_not_compiled():
    if not triton_language.INTERPRETED.value:
        pytest.skip("kernels are compiled here")
    with pytest.raises(EnvironmentProblem, match="unset TRITON_INTERPRET"):
        compile_variant(attention_variants(64)[0], "9.0", "fp16")
