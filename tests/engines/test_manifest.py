"""A manifest survives the disk and refuses everything that is not one."""

from __future__ import annotations

import hashlib
import json

import pytest
from pydantic import ValidationError

from sparsesam_deploy.engines.manifest import MANIFEST, EngineManifest, ParitySummary
from sparsesam_deploy.errors import InvalidInput

# --- writing and reading -----------------------------------------------------------------------------------------


def test_what_is_written_is_read(manifest, folder):
    manifest.write(folder / MANIFEST)
    assert EngineManifest.read(folder / MANIFEST) == manifest


def test_a_setting_that_is_not_there_has_its_default(manifest, folder):
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


def test_figures_of_parity_are_kept_as_they_are(manifest, folder):
    figures = {"passed": True, "mask_iou": 0.9987, "cosine": None, "blocks": [{"name": "block_00", "error": 1e-3}]}
    manifest.model_copy(update={"parity": ParitySummary(**figures)}).write(folder / MANIFEST)
    assert EngineManifest.read(folder / MANIFEST).parity.model_dump() == figures
    assert json.loads((folder / MANIFEST).read_text())["parity"] == figures


def test_it_cannot_be_changed_in_memory(manifest):
    with pytest.raises(ValidationError, match="frozen"):
        manifest.family = "vit_b"


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
    "number as text": (edited(export={"batch": ["1", 1, 1]}), "export.batch.0: Input should be a valid integer"),
    "text as number": (edited(family=7), "family: Input should be a valid string"),
    "unknown precision": (edited(export={"dtype": "int8"}), "export.dtype: Input should be 'fp32', 'fp16' or 'bf16'"),
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
        EngineManifest(**{**dict(manifest), "effective_density": {"attention": float("inf")}})
