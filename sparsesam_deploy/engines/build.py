"""``build``: checkpoint -> ONNX -> engine -> proof, complete in the output folder or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ..artifacts import output_folder
from ..export.decoder import export_decoder
from ..export.encoder import export_encoder
from ..export.metadata import load_exported
from ..export.recipe import ExportRecipe
from ..model.checkpoint import LoadedSam
from ..model.encoder import SparseSamEncoder
from ..progress import Stages
from .builder import BuilderName, BuiltEngine, EngineOptions, build_engine, load_builder
from .manifest import BatchProfile, Checkpoint, EngineManifest, FileRecord, Preprocessing, Sparsity
from .overlay import draw_overlay
from .report import ParityReport, write_json
from .samples import Sample
from .verify import Verifier

ENCODER, DECODER, ENGINE = "encoder.onnx", "decoder.onnx", "encoder.engine"
MANIFEST, PARITY = "manifest.json", "parity.json"
REJECTED = "rejected"


@dataclass(frozen=True)
class BuildResult:
    """What ``build`` leaves behind."""

    manifest: EngineManifest
    report: ParityReport


def export(recipe: ExportRecipe, folder: Path, stages: Stages) -> LoadedSam:
    """Write ``encoder.onnx`` and ``decoder.onnx`` into ``folder``; returns the checkpoint they came from."""
    with stages("load checkpoint"):
        loaded = recipe.load()
        encoder = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, recipe.sparsity, recipe.gelu)
    with stages(f"export encoder, {recipe.dtype}"):
        export_encoder(encoder, loaded, folder / ENCODER, recipe.dtype, recipe.batch)
    with stages(f"export decoder, {recipe.dtype}"):
        export_decoder(loaded, folder / DECODER, recipe.dtype)
    return loaded


def make_engine(
    folder: Path, builder: BuilderName, options: EngineOptions, plugin_library: Path | None, stages: Stages
) -> EngineManifest:
    """Build ``encoder.engine`` from ``encoder.onnx`` in ``folder``; returns its manifest, not yet written."""
    _, metadata = load_exported(folder / ENCODER)
    with stages(f"build engine, {builder}") as advance:
        built = build_engine(folder / ENCODER, builder, options, advance, plugin_library)
        (folder / ENGINE).write_bytes(built.data)
    return _manifest(folder, metadata, built, stages)


def _manifest(folder: Path, metadata: dict, built: BuiltEngine, stages: Stages) -> EngineManifest:
    decoder = folder / DECODER
    low, opt, high = metadata["batch"]
    return EngineManifest(
        engine=FileRecord.of(folder / ENGINE),
        encoder_onnx=FileRecord.of(folder / ENCODER),
        decoder_onnx=FileRecord.of(decoder) if decoder.is_file() else None,
        checkpoint=Checkpoint(**metadata["checkpoint"]),
        family=metadata["family"],
        builder=built.builder,
        builder_version=built.builder_version,
        compute_capabilities=built.compute_capabilities,
        plugins=built.plugins,
        precision=metadata["dtype"],
        sparsity=Sparsity(**{name: metadata[name] for name in Sparsity.model_fields}),
        preprocessing=Preprocessing(**metadata["preprocessing"]),
        batch=BatchProfile(min=low, opt=opt, max=high),
        packages=metadata["versions"],
        created=datetime.now(timezone.utc),
        audit=built.audit,
        parity=None,
        stages=tuple(stages.records),
    )


def build(
    recipe: ExportRecipe,
    output: Path,
    options: EngineOptions,
    samples: Sequence[Sample],
    stages: Stages,
    plugin_library: Path | None = None,
    min_dense_iou: float | None = None,
    overlay: bool = False,
) -> BuildResult:
    """Everything, into ``output``; a build that fails its parity check goes to ``output/rejected`` instead.

    Raises:
        CheckFailed: an audit finding; parity is not raised but reported.
    """
    load_builder(recipe.builder)  # a missing builder should not cost an export first
    with output_folder(output) as folder:
        loaded = export(recipe, folder, stages)
        manifest = make_engine(folder, recipe.builder, options, plugin_library, stages)
        with stages("verify") as advance:
            verifier = Verifier(loaded, folder / ENCODER, folder / DECODER, folder, manifest)
            report = verifier(samples, advance, min_dense_iou)
        if overlay:
            with stages("draw overlay"):
                draw_overlay(verifier, folder / "overlay.png")
        manifest = manifest.model_copy(update={"parity": report.summary(), "stages": tuple(stages.records)})
        write_json(folder / PARITY, report.as_json())
        manifest.write(folder / MANIFEST)
        if not report.passed:
            reject(folder, output / REJECTED)
    return BuildResult(manifest, report)


def reject(folder: Path, rejected: Path) -> None:
    """Move everything in ``folder`` to ``rejected``, replacing an earlier rejected build."""
    shutil.rmtree(rejected, ignore_errors=True)
    rejected.mkdir()
    for file in folder.iterdir():
        os.replace(file, rejected / file.name)


def build_engine_only(
    encoder: Path,
    output: Path,
    builder: BuilderName,
    options: EngineOptions,
    plugin_library: Path | None,
    stages: Stages,
) -> EngineManifest:
    """``encoder.engine`` and ``manifest.json`` for an exported encoder, whose ONNX files are copied along."""
    load_builder(builder)
    load_exported(encoder)
    with output_folder(output) as folder:
        for source in (encoder, encoder.with_name(f"{encoder.name}.data"), encoder.with_name(DECODER)):
            if source.is_file():
                target = folder / (ENCODER if source == encoder else source.name)
                shutil.copyfile(source, target)
        manifest = make_engine(folder, builder, options, plugin_library, stages)
        manifest.write(folder / MANIFEST)
    return manifest
