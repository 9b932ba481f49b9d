"""Engine folders as `sparsesam-export build --builder tensorrt` leaves them, with the stand-in's text for engines."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from pathlib import Path

from sparsesam_deploy.engines.audit import AuditReport
from sparsesam_deploy.engines.manifest import (
    MANIFEST,
    BatchProfile,
    Checkpoint,
    EngineManifest,
    FileRecord,
    PluginRequirement,
    Preprocessing,
    Sparsity,
)
from sparsesam_deploy.export.metadata import PREPROCESSING
from sparsesam_deploy.progress import StageRecord

BUILDER_VERSION = "10.13.0.35"
LIBRARY = "libsparsesam_plugins.so"
ENCODER = """in image -1,3,1024,1024 1,3,1024,1024 4,3,1024,1024
out image_embeddings -1,256,64,64
"""
DECODER = """in image_embeddings 1,256,64,64
in point_coords -1,-1,2 1,2,2 64,16,2
in point_labels -1,-1 1,2 64,16
in mask_input -1,1,256,256 1,1,256,256 64,1,256,256
in has_mask_input -1 1 64
out low_res_masks -1,4,256,256
out iou_predictions -1,4
"""
HQ_ENCODER = ENCODER + "out interm_embeddings 2,-1,64,64,8\n"
HQ_DECODER = DECODER.replace("in point_coords", "in interm_embeddings 2,1,64,64,8\nin point_coords").replace(
    "low_res_masks -1,4", "low_res_masks -1,5"
)
AUDIT = AuditReport(dtype="fp16", layers={}, precision={}, fp32_islands=(), custom_nodes={}, findings=())


def make_folder(
    folder: Path,
    encoder: str = ENCODER,
    decoder: str | None = DECODER,
    library: str = "a plugin library",
    embedded: bool = False,
    **changes,
) -> EngineManifest:
    """Write the files of a build and a manifest of them, by the package's own code; ``changes`` are to the manifest,
    ``embedded`` says that the engine carries its plugins."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"encoder.engine": encoder, "decoder.engine": decoder, LIBRARY: library}.items():
        if content is not None:
            (folder / name).write_text(content)
    plugin = PluginRequirement(
        name="StripeAttention",
        version="1",
        namespace="",
        library=LIBRARY,
        sha256=hashlib.sha256(library.encode()).hexdigest(),
        embedded=embedded,
    )
    manifest = EngineManifest(
        engine=FileRecord.of(folder / "encoder.engine"),
        decoder_engine=None if decoder is None else FileRecord.of(folder / "decoder.engine"),
        encoder_onnx=FileRecord(name="encoder.onnx", sha256="0" * 64, bytes=1),
        decoder_onnx=None,
        checkpoint=Checkpoint(source="sam_vit_b", sha256="0" * 64),
        family="vit_b",
        builder="tensorrt",
        builder_version=BUILDER_VERSION,
        compute_capabilities=("SM80", "SM89"),
        plugins=(plugin, plugin.model_copy(update={"name": "RoutedMlp"})),
        precision="fp16",
        gelu="erf",
        sparsity=Sparsity(
            attention_density=0.25,
            mlp_density=(0.4, 1.0),
            windowed_density=1.0,
            effective_density={"attention": 0.27},
            order="lattice",
            routing="share-variance",
        ),
        preprocessing=Preprocessing(**PREPROCESSING),
        batch=BatchProfile(min=1, opt=2, max=4),
        packages={"torch": "2.15.0"},
        created=datetime(2026, 11, 21, 3, 20, tzinfo=timezone.utc),
        audit=AUDIT,
        decoder_audit=AUDIT if decoder else None,
        parity={"passed": True, "blocks": [{"name": "block_00", "error": 1e-3}]},
        stages=(StageRecord("engine", 1.25, 812),),
    ).model_copy(update=changes)
    manifest.write(folder / MANIFEST)
    return manifest
