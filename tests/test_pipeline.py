"""What a build puts into its folder, and what it refuses before it spends time."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from sparsesam_deploy import pipeline as building
from sparsesam_deploy.engines import builder as builder_module
from sparsesam_deploy.engines.audit import AuditReport
from sparsesam_deploy.engines.folder import DECODER, DECODER_ENGINE, ENCODER, BuildFolder
from sparsesam_deploy.engines.options import EngineOptions
from sparsesam_deploy.errors import CheckFailed, InvalidInput
from sparsesam_deploy.export import writer
from sparsesam_deploy.export.encoder import export_encoder
from sparsesam_deploy.export.options import ExportOptions
from sparsesam_deploy.model.config import PRESETS
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.pipeline import build_engine_only
from sparsesam_deploy.progress import Stages
from sparsesam_deploy.recipe import ExportRecipe

from .engines.graphs import install_tensorrt
from .export.models import export, load_tiny
from .helpers import TINY
from .parity.faults import OF_ANOTHER_CHECKPOINT, write_broken

pytest.importorskip("tensorrt_rtx")
CHECKPOINT = load_tiny()


@pytest.fixture(scope="module")
def exported(tmp_path_factory, decoder_of) -> Path:
    """A folder with ``encoder.onnx``, its weights in a file beside it, and ``decoder.onnx``."""
    folder = tmp_path_factory.mktemp("exported")
    encoder = SparseSamEncoder(CHECKPOINT.sam.image_encoder, TINY, PRESETS["default"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "EXTERNAL_DATA_ABOVE", 1000)
        export_encoder(encoder, CHECKPOINT, folder / ENCODER, ExportOptions("fp16"))
    shutil.copyfile(decoder_of(CHECKPOINT, "fp16"), folder / DECODER)
    return folder


def silent() -> Stages:
    return Stages(Console(file=io.StringIO()))


def test_weights_beside_the_encoder_come_along(exported, tmp_path):
    renamed = tmp_path / "renamed"
    shutil.copytree(exported, renamed)
    (renamed / ENCODER).rename(renamed / "my.onnx")
    manifest = build_engine_only(renamed / "my.onnx", tmp_path / "out", "tensorrt-rtx", EngineOptions(), None, silent())
    assert [record.name for record in manifest.weight_files] == ["encoder.onnx.data"]
    assert manifest.decoder_engine.name == "decoder.engine" and manifest.decoder_audit.passed
    assert manifest.warnings == ()  # of the second builder, that it shares the first one's logger
    BuildFolder(tmp_path / "out").check_engines(manifest)
    BuildFolder(tmp_path / "out").check_sources(manifest)


def test_an_encoder_alone_leaves_no_decoder_engine_of_an_earlier_build(exported, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(exported, alone)
    (alone / DECODER).unlink()
    out = tmp_path / "out"
    out.mkdir()
    (out / DECODER_ENGINE).write_bytes(b"of an earlier build")
    manifest = build_engine_only(alone / ENCODER, out, "tensorrt-rtx", EngineOptions(), None, silent())
    assert (manifest.decoder_onnx, manifest.decoder_engine, manifest.decoder_audit) == (None, None, None)
    assert not (out / DECODER_ENGINE).exists()


def test_a_decoder_of_another_checkpoint_is_refused(exported, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(exported, mixed)
    write_broken(mixed / DECODER, exported / DECODER, [OF_ANOTHER_CHECKPOINT])
    with pytest.raises(CheckFailed, match=r"decoder\.onnx is of other\.pth, encoder\.onnx of tiny\.safetensors; move"):
        build_engine_only(mixed / ENCODER, tmp_path / "out", "tensorrt-rtx", EngineOptions(), None, silent())
    assert not (tmp_path / "out").exists()


def test_the_plugin_library_lies_beside_the_engine_that_needs_it(exported, tmp_path, monkeypatch):
    def as_if_plugins(network, asked, plugins):
        return AuditReport(dtype="fp16", layers={}, precision={}, fp32_islands=(), custom_nodes={}, findings=())

    install_tensorrt(monkeypatch, loads_plugins=True)
    monkeypatch.setattr(builder_module, "audit_network", as_if_plugins)
    library = tmp_path / "libsparsesam.so"
    library.write_bytes(b"ELF")
    manifest = build_engine_only(exported / ENCODER, tmp_path / "out", "tensorrt", EngineOptions(), library, silent())
    assert {plugin.library for plugin in manifest.plugins} == {"libsparsesam.so"}
    BuildFolder(tmp_path / "out").check_engines(manifest)


@pytest.mark.parametrize(
    ("options", "library", "sentence"),
    [
        ({"version_compatible": True}, None, "tensorrt-rtx has no --version-compatible"),
        ({}, Path("lib.so"), "tensorrt-rtx cannot build the plugins of lib.so"),
    ],
    ids=["option", "plugins"],
)
def test_what_the_builder_cannot_do_is_refused_before_the_export(tmp_path, monkeypatch, options, library, sentence):
    monkeypatch.setattr(building, "export", lambda *arguments: pytest.fail("an export was begun"))
    recipe = ExportRecipe.of({"model": "nano", "builder": "tensorrt-rtx", **options})
    with pytest.raises(InvalidInput, match=sentence):
        building.build(recipe, tmp_path / "out", [], silent(), library)


def test_plugins_for_an_inlined_encoder_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "check_buildable", lambda *arguments: None)
    monkeypatch.setattr(building, "export", lambda *arguments: pytest.fail("an export was begun"))
    library, sentence = Path("lib.so"), "no nodes that could become the plugins of lib.so; export it without --inline"
    recipe = ExportRecipe.of({"model": "nano", "builder": "tensorrt", "inline": True})
    with pytest.raises(InvalidInput, match=sentence):
        building.build(recipe, tmp_path / "out", [], silent(), library)
    exported = export(tmp_path, PRESETS["default"], inline=True).path
    with pytest.raises(InvalidInput, match=sentence):
        build_engine_only(exported, tmp_path / "out", "tensorrt", EngineOptions(), library, silent())
    assert not (tmp_path / "out").exists()
