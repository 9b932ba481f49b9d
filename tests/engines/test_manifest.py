"""A manifest survives the disk, refuses everything that is not one, and finds out whatever no longer fits it."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone

import pytest
from pydantic import ValidationError

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
from sparsesam_deploy.errors import CheckFailed, InvalidInput
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
        preprocessing=Preprocessing(
            image_size=1024,
            patch_size=16,
            pixel_mean=(123.675, 116.28, 103.53),
            pixel_std=(58.395, 57.12, 57.375),
            layout="RGB, NCHW, padded right and below",
        ),
        batch=BatchProfile(min=1, opt=1, max=4),
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


# --- writing and reading -----------------------------------------------------------------------------------------


def test_what_is_written_is_read(manifest, folder):
    manifest.write(folder / MANIFEST)
    assert EngineManifest.read(folder / MANIFEST) == manifest


def test_a_manifest_from_before_windows_shared_rows_says_that_keys_are_thinned(manifest, folder):
    manifest.write(folder / MANIFEST)
    content = json.loads((folder / MANIFEST).read_text())
    del content["sparsity"]["windowed_routing"]
    (folder / MANIFEST).write_text(json.dumps(content))
    assert EngineManifest.read(folder / MANIFEST).sparsity.windowed_routing == "stripe"


def test_the_file_is_plain_json(manifest, folder):
    manifest.write(folder / MANIFEST)
    content = json.loads((folder / MANIFEST).read_text())
    assert content["schema_version"] == 4
    assert content["created"] == "2026-11-20T18:09:00Z"
    assert content["engine"] == {
        "name": "encoder.engine",
        "sha256": hashlib.sha256(b"an engine").hexdigest(),
        "bytes": 9,
    }
    assert content["stages"] == [{"name": "engine", "seconds": 1.25, "peak_mib": 812}]


def test_decoder_and_parity_are_optional(manifest, folder):
    decoder = dict.fromkeys(("decoder_onnx", "decoder_engine", "decoder_audit"))
    bare = manifest.model_copy(update={**decoder, "parity": None, "plugins": ()})
    bare.write(folder / MANIFEST)
    assert EngineManifest.read(folder / MANIFEST) == bare
    (folder / "decoder.engine").unlink()
    bare.check(folder)


def test_it_cannot_be_changed_in_memory(manifest):
    with pytest.raises(ValidationError, match="frozen"):
        manifest.precision = "fp32"


def test_unwritable_output(manifest, folder):
    with pytest.raises(InvalidInput, match="cannot write to"):
        manifest.write(folder / "encoder.onnx" / MANIFEST)


# --- files that are no manifest ----------------------------------------------------------------------------------


def edited(**changes):
    def edit(content):
        return json.dumps({**json.loads(content), **changes}).encode()

    return edit


def without(key):
    def edit(content):
        return json.dumps({k: v for k, v in json.loads(content).items() if k != key}).encode()

    return edit


UNUSABLE = {
    "empty": (lambda _: b"", "is not an engine manifest .Invalid JSON"),
    "truncated": (lambda content: content[:300], "is not an engine manifest .Invalid JSON"),
    "not json": (lambda _: b"\x89PNG\r\n", "is not an engine manifest .Invalid JSON"),
    "not text": (lambda _: b'{"schema_version": 4, "family": "\xff"}', "is not an engine manifest"),
    "a list": (lambda _: b"[1]", "is not an engine manifest"),
    "no version": (without("schema_version"), "is not an engine manifest .schema_version: Field required"),
    "missing field": (without("builder"), "is not an engine manifest .builder: Field required"),
    "unknown field": (edited(colour="red"), "is not an engine manifest .colour: Extra inputs are not permitted"),
    "number as text": (edited(batch={"min": "1", "opt": 1, "max": 1}), "batch.min: Input should be a valid integer"),
    "text as number": (edited(family=7), "family: Input should be a valid string"),
    "unknown precision": (edited(precision="int8"), "precision: Input should be 'fp32', 'fp16' or 'bf16'"),
    "short hash": (edited(checkpoint={"source": "x", "sha256": "abc"}), "checkpoint.sha256: String should match"),
    "path out of the folder": (
        edited(engine={"name": "../encoder.engine", "sha256": "0" * 64, "bytes": 1}),
        "engine.name: String should match",
    ),
    "parent folder": (edited(engine={"name": "..", "sha256": "0" * 64, "bytes": 1}), "engine.name: String should"),
    "no gpu": (edited(compute_capabilities=[]), "compute_capabilities: Tuple should have at least 1 item"),
    "no zone": (edited(created="2026-11-20T18:09:00"), "created: Input should have timezone info"),
    "newer": (edited(schema_version=5, colour="red"), "has schema version 5, this sparsesam-deploy reads 4; install"),
    "older": (edited(schema_version=3), "has schema version 3, this sparsesam-deploy reads 4; install the release"),
    "deeply nested": (
        lambda _: b'{"schema_version": 4, "parity": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "is not an engine manifest .*recursion limit",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_unusable_manifests(manifest, folder, change, sentence):
    path = folder / MANIFEST
    manifest.write(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InvalidInput, match=sentence) as caught:
        EngineManifest.read(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_huge_file_is_not_even_parsed(folder):
    path = folder / MANIFEST
    with open(path, "wb") as file:
        file.truncate(100 << 20)
    with pytest.raises(InvalidInput, match=r"is larger than any engine manifest \(8 MiB\)"):
        EngineManifest.read(path)


def test_missing_manifests(folder):
    with pytest.raises(
        InvalidInput, match=r"cannot read \S+manifest.json: no such file or directory; name an engine's"
    ):
        EngineManifest.read(folder / MANIFEST)
    with pytest.raises(InvalidInput, match="is a directory"):
        EngineManifest.read(folder)


def test_infinite_figures_are_refused(manifest):
    with pytest.raises(ValidationError, match="finite number"):
        Sparsity(**{**manifest.sparsity.model_dump(), "effective_density": {"attention": float("inf")}})


# --- check -------------------------------------------------------------------------------------------------------


def test_an_untouched_folder_passes(manifest, folder):
    manifest.check(folder)
    manifest.check(folder, builder_version="1.7.1.116", compute_capability="SM89")
    manifest.check_sources(folder)


@pytest.mark.parametrize(
    ("compatible", "installed", "loads"),
    [(True, "1.7.1.116", True), (True, "1.10.0.1", True), (True, "1.7.0.200", False), (False, "1.10.0.1", False)],
)
def test_version_compatible_engines_load_with_later_releases(manifest, folder, compatible, installed, loads):
    manifest = manifest.model_copy(update={"version_compatible": compatible})
    if loads:
        manifest.check(folder, builder_version=installed)
    else:
        with pytest.raises(CheckFailed, match=f"but {installed} is installed"):
            manifest.check(folder, builder_version=installed)


def test_edited_weights_beside_the_onnx_file_are_found_out(manifest, folder):
    weights = folder / "encoder.onnx.data"
    weights.write_bytes(b"weights")
    manifest = manifest.model_copy(update={"weight_files": (FileRecord.of(weights),)})
    manifest.check_sources(folder)
    weights.write_bytes(b"Weights")
    with pytest.raises(CheckFailed, match=r"encoder\.onnx\.data has changed"):
        manifest.check_sources(folder)


REBUILD = r"rebuild with `sparsesam-export build --output \S+`"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"builder_version": "1.8.0.1"},
            r"encoder.engine was built by tensorrt-rtx 1.7.1.116, but 1.8.0.1 is installed; "
            + REBUILD
            + r" or `pip install tensorrt-rtx==1.7.1.116`",
        ),
        (
            {"compute_capability": "SM90"},
            r"encoder.engine was built for SM80, SM89, but this GPU is SM90; rebuild here with "
            r"`sparsesam-export build --builder tensorrt --output \S+`",
        ),
    ],
    ids=["runtime", "gpu"],
)
def test_another_machine_is_refused(manifest, folder, given, sentence):
    with pytest.raises(CheckFailed, match=sentence):
        manifest.check(folder, **given)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("encoder.engine", None, r"encoder.engine, named by its manifest, is missing; " + REBUILD),
        ("encoder.engine", b"an ENGINE", r"encoder.engine has changed since its manifest was written; " + REBUILD),
        ("decoder.engine", b"another ENGINE", r"decoder.engine has changed since its manifest was written; " + REBUILD),
        ("encoder.engine", b"an eng", r"encoder.engine has 6 bytes, but its manifest says 9; " + REBUILD),
        (
            "libsparsesam.so",
            None,
            r"encoder.engine needs the plugins RoutedRows, StripeAttention of \S+libsparsesam.so, which is missing; "
            r"copy the library there or " + REBUILD,
        ),
        (
            "libsparsesam.so",
            b"another library",
            r"of another libsparsesam.so than \S+; restore the library or",
        ),
    ],
    ids=["missing", "changed", "decoder", "truncated", "no plugin library", "other plugin library"],
)
def test_another_file_is_refused(manifest, folder, name, content, sentence):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(CheckFailed, match=sentence):
        manifest.check(folder)


def test_an_engine_without_plugins_needs_no_library(manifest, folder):
    (folder / "libsparsesam.so").unlink()
    manifest.model_copy(update={"plugins": ()}).check(folder)


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx"])
def test_an_edited_onnx_file_is_found_out(manifest, folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content.upper())
    with pytest.raises(CheckFailed, match=rf"{name} has changed since its manifest was written; {REBUILD}"):
        manifest.check_sources(folder)
