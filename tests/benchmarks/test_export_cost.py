"""A model of ViT-B's depth goes through load and both exports within the time the benchmark allows."""

from __future__ import annotations

from pathlib import Path

from benchmarks.export_cost import EXPORT, run_case, within_limits


def test_nano_exports_in_time(tmp_path: Path):
    result = run_case("nano:fp16", tmp_path, export_only=True)
    assert [stage["name"] for stage in result["stages"]] == list(EXPORT)
    assert within_limits(result), result
