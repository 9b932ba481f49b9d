"""The benchmark of an export measures every stage, and says what is over its limit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.export_cost import EXPORT, LIMITS, measure, within_limits
from sparsesam_deploy.export import decoder
from tests.helpers import TINY, save_random_checkpoint


def test_every_stage_is_measured(tmp_path: Path, decoder_of, monkeypatch):
    """How long the shipped model's export takes is held to its limit in ``tests/cli/test_commands.py``."""
    save_random_checkpoint(tmp_path / "tiny.pth", TINY)
    copy = lambda loaded, path, dtype: shutil.copyfile(decoder_of(loaded, dtype), path)  # noqa: E731
    monkeypatch.setattr(decoder, "export_decoder", copy)
    result = measure("tiny", "fp16", tmp_path, export_only=True)
    assert [stage["name"] for stage in result["stages"]] == list(EXPORT)
    assert result["export_seconds"] == pytest.approx(sum(stage["seconds"] for stage in result["stages"]), abs=0.01)
    assert 100 < result["export_peak_mib"] < 16_384
    assert (tmp_path / "encoder.onnx").is_file() and (tmp_path / "decoder.onnx").is_file()


@pytest.mark.parametrize(
    ("seconds", "mib", "within"), [(180, 8192, True), (181, 8192, False), (180, 8193, False)], ids=str
)
def test_limits_are_of_time_and_of_memory(seconds, mib, within):
    assert LIMITS["vit_h"] == {"seconds": 180, "mib": 8192}
    result = {"case": "vit_h:fp16", "export_seconds": seconds, "export_peak_mib": mib}
    assert within_limits(result) is within
