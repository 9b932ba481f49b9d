"""TensorRT-RTX builds what is exported; no GPU takes part."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsesam_deploy.engines.builder import build_engine
from sparsesam_deploy.engines.options import EngineOptions
from sparsesam_deploy.export.decoder import export_decoder
from sparsesam_deploy.model.config import PRESETS, SamConfig, SparsityConfig
from tests.export.models import TINY, TINY_HQ, export, load_tiny

STATIC, DYNAMIC = (1, 1, 1), (1, 2, 4)
CASES = {
    "default-fp16": (PRESETS["default"], "fp16", STATIC),
    "default-fp16-dynamic": (PRESETS["default"], "fp16", DYNAMIC),
    "default-bf16": (PRESETS["default"], "bf16", STATIC),
    "paper-fp16": (PRESETS["paper"], "fp16", STATIC),
    "interleaved-fp16": (SparsityConfig(0.3, 0.5, order="interleaved", routing="skip-sobel"), "fp16", STATIC),
    "quadtree-fp16-dynamic": (
        SparsityConfig(0.25, (1.0, 0.2, 0.53125, 0.999), routing="share-quadtree"),
        "fp16",
        DYNAMIC,
    ),
    "windows-shared-fp16-dynamic": (
        SparsityConfig(0.25, 0.4, (0.25, 1.0, 0.6, 1.0), windowed_routing="share-variance"),
        "fp16",
        DYNAMIC,
    ),
    "many-kept-fp16": (SparsityConfig(0.25, 0.96, routing="skip-group-rank"), "fp16", STATIC),
}


def ignore(share: float, words: str = "") -> None:
    """Progress nobody watches."""


@pytest.mark.parametrize("name", CASES)
def test_encoder_builds(name: str, tmp_path: Path):
    pytest.importorskip("tensorrt_rtx")
    sparsity, dtype, batch = CASES[name]
    exported = export(tmp_path, sparsity, dtype, batch)
    built = build_engine(exported.path, "tensorrt-rtx", EngineOptions(), ignore, batch=batch)
    assert built.audit.passed
    assert len(built.data) > 1 << 16


@pytest.mark.parametrize(
    ("dtype", "config"),
    [("fp32", TINY), ("fp16", TINY), ("bf16", TINY), ("bf16", TINY_HQ)],
    ids=["fp32", "fp16", "bf16", "bf16-hq"],
)
def test_decoder_builds(dtype: str, config: SamConfig, tmp_path: Path):
    """Whatever the encoder's batch: the decoder's axes have ranges of their own."""
    pytest.importorskip("tensorrt_rtx")
    export_decoder(load_tiny(config), tmp_path / "decoder.onnx", dtype)
    built = build_engine(tmp_path / "decoder.onnx", "tensorrt-rtx", EngineOptions(), ignore, batch=DYNAMIC)
    assert built.audit.passed and built.audit.custom_nodes == {}
    assert len(built.data) > 1 << 20
