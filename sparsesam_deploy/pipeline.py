"""``build``: checkpoint -> ONNX -> engine -> proof, complete in the output folder or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .artifacts import output_folder
from .engines.builder import BuiltEngine, build_engine, check_buildable
from .engines.folder import ABOUT_AN_ENGINE, BuildFolder
from .engines.manifest import Checkpoint, EngineManifest, FileRecord, ParitySummary, Preprocessing
from .engines.options import BuilderName, EngineOptions, chosen_builder
from .errors import CheckFailed, InvalidInput
from .export.decoder import export_decoder
from .export.encoder import export_encoder
from .export.metadata import load_exported, options_of, sparsity_of, weight_files
from .export.options import ExportOptions
from .model.checkpoint import LoadedSam
from .model.encoder import SparseSamEncoder
from .parity.overlay import draw_overlay
from .parity.report import ParityReport, write_json
from .parity.samples import Sample
from .parity.verify import Verifier
from .plugin_library import REGISTER
from .progress import Stages
from .recipe import ExportRecipe


@dataclass(frozen=True)
class BuildResult:
    """What ``build`` leaves behind."""

    manifest: EngineManifest
    report: ParityReport


def export(recipe: ExportRecipe, folder: BuildFolder, stages: Stages) -> LoadedSam:
    """Write ``encoder.onnx`` and ``decoder.onnx`` into ``folder``; returns the checkpoint they came from."""
    with stages("load checkpoint"):
        loaded = recipe.weights.load()
        encoder = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, recipe.sparsity, recipe.export.gelu)
    with stages(f"export encoder, {recipe.export.dtype}"):
        export_encoder(encoder, loaded, folder.encoder_onnx, recipe.export)
    with stages(f"export decoder, {recipe.export.dtype}"):
        export_decoder(loaded, folder.decoder_onnx, recipe.export.dtype)
    return loaded


def make_engine(
    folder: BuildFolder, builder: BuilderName, options: EngineOptions, plugin_library: Path | None, stages: Stages
) -> EngineManifest:
    """Build ``encoder.engine`` from ``encoder.onnx`` in ``folder``, and ``decoder.engine`` if there is a decoder.

    The plugin library is copied along, since the encoder's engine needs that very one, with the one that registers it
    for programs that only dlopen; a decoder has no custom nodes.

    Returns:
        The manifest of both, not yet written.
    """
    model, metadata = load_exported(folder.encoder_onnx)
    sidecars = [folder.path / name for name in weight_files(model)]
    del model
    with stages(f"build engine, {builder}") as advance:
        batch = options_of(metadata).batch
        built = build_engine(folder.encoder_onnx, builder, options, advance, plugin_library, batch)
        folder.engine.write_bytes(built.data)
    built_decoder = None
    if folder.decoder_onnx.is_file():
        with stages(f"build decoder engine, {builder}") as advance:
            built_decoder = build_engine(folder.decoder_onnx, builder, replace(options, embed_plugins=False), advance)
            folder.decoder_engine.write_bytes(built_decoder.data)
    if plugin_library is not None:
        for library in (plugin_library, plugin_library.with_name(REGISTER)):
            if library.is_file():
                shutil.copyfile(library, folder.path / library.name)
    return _manifest(folder, metadata, sidecars, built, built_decoder, options, stages)


def _manifest(
    folder: BuildFolder,
    metadata: dict[str, Any],
    sidecars: list[Path],
    built: BuiltEngine,
    decoder: BuiltEngine | None,
    options: EngineOptions,
    stages: Stages,
) -> EngineManifest:
    return EngineManifest(
        engine=FileRecord.of(folder.engine),
        decoder_engine=None if decoder is None else FileRecord.of(folder.decoder_engine),
        encoder_onnx=FileRecord.of(folder.encoder_onnx),
        weight_files=tuple(FileRecord.of(path) for path in sidecars),
        decoder_onnx=None if decoder is None else FileRecord.of(folder.decoder_onnx),
        checkpoint=Checkpoint(**metadata["checkpoint"]),
        family=metadata["family"],
        builder=built.builder,
        builder_version=built.builder_version,
        engine_options=options,
        compute_capabilities=built.compute_capabilities,
        plugins=built.plugins,
        export=options_of(metadata),
        sparsity=sparsity_of(metadata),
        effective_density=metadata["effective_density"],
        preprocessing=Preprocessing(**metadata["preprocessing"]),
        packages=metadata["versions"],
        created=datetime.now(timezone.utc),
        audit=built.audit,
        decoder_audit=None if decoder is None else decoder.audit,
        warnings=built.warnings if decoder is None else tuple(dict.fromkeys(built.warnings + decoder.warnings)),
        parity=None,
        stages=tuple(stages.records),
    )


def build(
    recipe: ExportRecipe,
    output: Path,
    samples: Sequence[Sample],
    stages: Stages,
    plugin_library: Path | None = None,
    min_dense_iou: float | None = None,
    overlay: bool = False,
) -> BuildResult:
    """Everything, into ``output``; a build that fails its parity check goes to ``output/rejected`` instead.

    Raises:
        CheckFailed: an audit finding; parity is not raised but reported.
        InvalidInput: ``recipe`` names no builder, or asks for plugins and for none of the nodes that become them.
    """
    builder = chosen_builder(recipe.builder)
    check_buildable(builder, recipe.engine, plugin_library)
    _check_has_nodes(recipe.export, plugin_library)
    with output_folder(output, replaces=ABOUT_AN_ENGINE) as partial:
        folder = BuildFolder(partial)
        loaded = export(recipe, folder, stages)
        manifest = make_engine(folder, builder, recipe.engine, plugin_library, stages)
        with stages("verify") as advance:
            verifier = Verifier(loaded, folder.encoder_onnx, folder.decoder_onnx, folder.path, manifest)
            report = verifier(samples, advance, min_dense_iou)
        if overlay:
            with stages("draw overlay"):
                draw_overlay(verifier, folder.overlay)
        parity = ParitySummary.model_validate(report.summary())
        manifest = manifest.model_copy(update={"parity": parity, "stages": tuple(stages.records)})
        write_json(folder.parity_report, report.as_json())
        manifest.write(folder.manifest_path)
        rejected = BuildFolder(output).rejected
        if rejected.manifest_path.is_file():  # of an earlier build; any other folder of that name is the user's
            shutil.rmtree(rejected.path)
        if not report.passed:
            reject(folder, rejected)
    return BuildResult(manifest, report)


def _check_has_nodes(options: ExportOptions, plugin_library: Path | None) -> None:
    if options.inline and plugin_library is not None:
        raise InvalidInput(
            f"an encoder exported with --inline has no nodes that could become the plugins of {plugin_library}; "
            "export it without --inline, or build with --no-plugins."
        )


def reject(folder: BuildFolder, rejected: BuildFolder) -> None:
    """Move everything in ``folder`` to ``rejected``."""
    rejected.path.mkdir()
    for file in folder.path.iterdir():
        os.replace(file, rejected.path / file.name)


def build_engine_only(
    encoder: Path,
    output: Path,
    builder: BuilderName,
    options: EngineOptions,
    plugin_library: Path | None,
    stages: Stages,
) -> EngineManifest:
    """Engines and ``manifest.json`` for an exported encoder and the decoder beside it; their ONNX files come along.

    Raises:
        CheckFailed: an audit finding, or the decoder beside the encoder is of another checkpoint.
        InvalidInput: the encoder is inlined and there are plugins to build.
    """
    check_buildable(builder, options, plugin_library)
    model, metadata = load_exported(encoder, "encoder")
    _check_has_nodes(options_of(metadata), plugin_library)
    beside = [encoder.with_name(name) for name in weight_files(model)]
    del model
    if (decoder := BuildFolder(encoder.parent).decoder_onnx).is_file():
        _, of_decoder = load_exported(decoder, "decoder")
        if of_decoder["checkpoint"] != metadata["checkpoint"]:
            raise CheckFailed(
                f"{decoder} is of {of_decoder['checkpoint']['source']}, {encoder.name} of "
                f"{metadata['checkpoint']['source']}; move the decoder elsewhere or export both again."
            )
        beside.append(decoder)
    with output_folder(output, replaces=ABOUT_AN_ENGINE) as partial:
        folder = BuildFolder(partial)
        shutil.copyfile(encoder, folder.encoder_onnx)
        for source in beside:
            shutil.copyfile(source, partial / source.name)
        manifest = make_engine(folder, builder, options, plugin_library, stages)
        manifest.write(folder.manifest_path)
    return manifest
