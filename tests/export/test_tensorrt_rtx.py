"""TensorRT-RTX builds every encoder that is exported; no GPU takes part."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsesam_deploy.engines.builder import build_engine
from sparsesam_deploy.engines.options import EngineOptions
from sparsesam_deploy.model.config import PRESETS, ROUTINGS, SparsityConfig
from tests.export.models import VARIANTS, export

STATIC, DYNAMIC = (1, 1, 1), (1, 2, 4)
CASES = {
    "default-fp16": (PRESETS["default"], "fp16", STATIC),
    "default-fp16-dynamic": (PRESETS["default"], "fp16", DYNAMIC),
    "default-bf16": (PRESETS["default"], "bf16", STATIC),
    "paper-fp16": (PRESETS["paper"], "fp16", STATIC),
    "interleaved-fp16": (VARIANTS["interleaved-skip-group-rank"], "fp16", STATIC),
    "quadtree-fp16-dynamic": (
        SparsityConfig(0.25, (1.0, 0.2, 0.53125, 0.999), routing="share-quadtree"),
        "fp16",
        DYNAMIC,
    ),
    "windows-shared-fp16-dynamic": (VARIANTS["windows-shared"], "fp16", DYNAMIC),
    **{f"{routing}-fp16": (VARIANTS[f"lattice-{routing}"], "fp16", STATIC) for routing in ROUTINGS[1:]},
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
