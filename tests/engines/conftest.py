"""A build in a folder: small files under the names of a real one, and their manifest."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone

import pytest

from sparsesam_deploy.engines.audit import AuditReport
from sparsesam_deploy.engines.manifest import (
    Checkpoint,
    EngineManifest,
    FileRecord,
    PluginRequirement,
    Preprocessing,
)
from sparsesam_deploy.engines.options import EngineOptions
from sparsesam_deploy.export.options import ExportOptions
from sparsesam_deploy.model.config import SparsityConfig
from sparsesam_deploy.progress import StageRecord

FILES = {
    "encoder.engine": b"an engine",
    "decoder.engine": b"another engine",
    "encoder.onnx": b"an encoder",
    "decoder.onnx": b"a decoder",
}
LIBRARY = b"a plugin library"


@pytest.fixture
def folder(tmp_path):
    """What a build leaves behind, with a plugin library beside it."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "libsparsesam.so").write_bytes(LIBRARY)
    return tmp_path


def plugin(name="StripeAttention"):
    sha256 = hashlib.sha256(LIBRARY).hexdigest()
    return PluginRequirement(name=name, version="1", namespace="", library="libsparsesam.so", sha256=sha256)


@pytest.fixture
def manifest(folder):
    return EngineManifest(
        engine=FileRecord.of(folder / "encoder.engine"),
        decoder_engine=FileRecord.of(folder / "decoder.engine"),
        encoder_onnx=FileRecord.of(folder / "encoder.onnx"),
        decoder_onnx=FileRecord.of(folder / "decoder.onnx"),
        checkpoint=Checkpoint(source="sam_vit_nano", sha256="0" * 64),
        family="nano",
        builder="tensorrt-rtx",
        builder_version="1.7.1.116",
        compute_capabilities=("SM80", "SM89"),
        plugins=(plugin(), plugin("RoutedRows")),
        export=ExportOptions("fp16", batch=(1, 1, 4)),
        sparsity=SparsityConfig(
            attention_density=0.25,
            mlp_density=(0.4, 1.0),
            windowed_density=1.0,
            order="lattice",
            routing="share-variance",
        ),
        effective_density={"attention": 0.27},
        engine_options=EngineOptions(),
        preprocessing=Preprocessing(
            image_size=1024,
            patch_size=16,
            pixel_mean=(123.675, 116.28, 103.53),
            pixel_std=(58.395, 57.12, 57.375),
            layout="RGB, NCHW, padded right and below",
        ),
        packages={"torch": "2.15.0", "onnx": "1.23.2"},
        created=datetime(2026, 11, 20, 18, 9, tzinfo=timezone.utc),
        audit=AuditReport(
            dtype="fp16",
            layers={"MATRIX_MULTIPLY": 2},
            precision={"MATRIX_MULTIPLY": {"HALF": 2}},
            fp32_islands=("scores in block0 (StripeAttention)",),
            custom_nodes={"block0": "function body"},
            findings=(),
        ),
        decoder_audit=AuditReport(dtype="fp16", layers={}, precision={}, fp32_islands=(), custom_nodes={}, findings=()),
        parity={"passed": True, "mask_iou": 0.9987},
        stages=(StageRecord("engine", 1.25, 812),),
    )
