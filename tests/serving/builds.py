"""Folders as ``sparsesam-export build`` leaves them: real ONNX files, and engines that are only named so."""

from __future__ import annotations

import hashlib
import os
from datetime import datetime, timezone
from pathlib import Path

import onnx
from onnx import TensorProto, helper

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
from sparsesam_deploy.export.metadata import content_digest, set_metadata

LIBRARY, REGISTRATION = "libsparsesam_plugins.so", "libsparsesam_plugins_register.so"
AUDIT = AuditReport(dtype="fp32", layers={}, precision={}, fp32_islands=(), custom_nodes={}, findings=())

BATCHED, STATIC, HQ = "batched", "static", "hq"


def declared(folder: Path, kind: str = BATCHED) -> Path:
    """ONNX files that declare the inputs and outputs of exported ones and compute nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    batch = {BATCHED: "batch", STATIC: 1, HQ: "batch"}[kind]
    embeddings = {"image_embeddings": [batch, 256, 64, 64]}
    if kind == HQ:
        embeddings["interm_embeddings"] = [2, batch, 64, 64, 64]
    single = {name: [1 if dim == "batch" else dim for dim in dims] for name, dims in embeddings.items()}
    prompts = {
        "point_coords": ["num_prompts", "num_points", 2],
        "point_labels": ["num_prompts", "num_points"],
        "mask_input": ["num_prompts", 1, 256, 256],
        "has_mask_input": ["num_prompts"],
    }
    answers = {
        "low_res_masks": ["num_prompts", 5 if kind == HQ else 4, 256, 256],
        "iou_predictions": ["num_prompts", 4],
    }
    _declare(folder / "encoder.onnx", "encoder", {"image": [batch, 3, 1024, 1024]}, embeddings)
    _declare(folder / "decoder.onnx", "decoder", {**single, **prompts}, answers)
    return folder


def _declare(path: Path, kind: str, inputs: dict[str, list], outputs: dict[str, list]) -> None:
    def values(tensors):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in tensors.items()]

    model = helper.make_model(helper.make_graph([], kind, values(inputs), values(outputs)))
    set_metadata(model, {"kind": kind})
    set_metadata(model, {"content_sha256": content_digest(model, path.parent)})
    onnx.save(model, path)


def plugin(library: bytes, embedded: bool) -> PluginRequirement:
    sha256 = hashlib.sha256(library).hexdigest()
    return PluginRequirement(
        name="StripeAttention", version="1", namespace="", library=LIBRARY, sha256=sha256, embedded=embedded
    )


def make_build(
    folder: Path, exported: Path, plugin_library: bytes | None = None, embedded: bool = False, **changes: object
) -> Path:
    """A build in ``folder`` of the ONNX files in ``exported``; ``changes`` are fields of its manifest.

    With a ``plugin_library`` there is the one that registers it too, as beside an installed one; ``embedded`` says
    that the engine carries it.
    """
    folder.mkdir(parents=True)
    for name in ("encoder.onnx", "decoder.onnx"):
        os.link(exported / name, folder / name)
    capability = changes.get("compute_capabilities", ("SM90",))[0]
    for name in ("encoder.engine", "decoder.engine"):
        (folder / name).write_text(f"{name} for {capability}")
    if plugin_library is not None:
        (folder / LIBRARY).write_bytes(plugin_library)
        (folder / REGISTRATION).write_bytes(b"registers them")
        changes["plugins"] = (plugin(plugin_library, embedded),)
    fields = {
        "engine": FileRecord.of(folder / "encoder.engine"),
        "decoder_engine": FileRecord.of(folder / "decoder.engine"),
        "encoder_onnx": FileRecord.of(folder / "encoder.onnx"),
        "decoder_onnx": FileRecord.of(folder / "decoder.onnx"),
        "checkpoint": Checkpoint(source="sam_vit_nano", sha256="0" * 64),
        "family": "nano",
        "builder": "tensorrt",
        "builder_version": "10.13.3.9",
        "compute_capabilities": ("SM90",),
        "plugins": (),
        "precision": "fp32",
        "gelu": "erf",
        "sparsity": Sparsity(
            attention_density=1.0,
            mlp_density=1.0,
            windowed_density=1.0,
            effective_density={},
            order="lattice",
            routing="share-variance",
        ),
        "preprocessing": Preprocessing(
            image_size=1024,
            patch_size=16,
            pixel_mean=(123.675, 116.28, 103.53),
            pixel_std=(58.395, 57.12, 57.375),
            layout="RGB",
        ),
        "batch": BatchProfile(min=1, opt=2, max=4),
        "packages": {},
        "created": datetime(2026, 11, 20, tzinfo=timezone.utc),
        "audit": AUDIT,
        "decoder_audit": AUDIT,
        "parity": {"passed": True},
        "stages": (),
    }
    EngineManifest(**fields | changes).write(folder / MANIFEST)
    return folder
