"""Manifests that no loader may take: each a change to a good folder, with a part of the sentence that refuses it."""

from __future__ import annotations

import json
from pathlib import Path

from sparsesam_deploy.engines.manifest import MANIFEST


def edit(folder: Path, change) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def put(path: str, value):
    """A change of one value, named like ``engine.name``."""

    def change(content):
        *parents, last = path.split(".")
        for key in parents:
            content = content[int(key) if key.isdigit() else key]
        content[last] = value

    return change


def drop(path: str):
    def change(content):
        *parents, last = path.split(".")
        for key in parents:
            content = content[key]
        del content[last]

    return change


def rewrite(change):
    def apply(folder):
        path = folder / MANIFEST
        path.write_bytes(change(path.read_bytes()))

    return apply


def field(change):
    return lambda folder: edit(folder, change)


UNUSABLE = {
    "empty": (rewrite(lambda _: b""), "is not an engine manifest (invalid JSON"),
    "truncated": (rewrite(lambda content: content[:300]), "is not an engine manifest (invalid JSON"),
    "not json": (rewrite(lambda _: b"\x89PNG\r\n\x1a\n"), "is not an engine manifest (invalid JSON"),
    "not text": (rewrite(lambda _: b'{"schema_version": 4, "family": "\xff"}'), "(invalid JSON"),
    "a list": (rewrite(lambda _: b"[1]"), "(should be an object)"),
    "two documents": (rewrite(lambda content: content + content), "(invalid JSON"),
    "no version": (field(drop("schema_version")), "(schema_version: field required)"),
    "older": (field(put("schema_version", 3)), "has schema version 3, this runtime reads 4; install"),
    "newer": (field(put("schema_version", 5)), "has schema version 5, this runtime reads 4; install"),
    "version as text": (field(put("schema_version", "4")), "(schema_version: should be an integer"),
    "no builder": (field(drop("builder")), "(builder: field required)"),
    "other builder": (field(put("builder", "tvm")), "(builder: should be one of tensorrt, tensorrt-rtx)"),
    "other precision": (field(put("export.dtype", "int8")), "(export.dtype: should be one of bf16, fp16, fp32)"),
    "no decoder field": (field(drop("decoder_engine")), "(decoder_engine: field required)"),
    "number as text": (
        field(put("export.batch", ["1", 2, 4])),
        "(export.batch.0: should be an integer from 1 to",
    ),
    "batch 0": (field(put("export.batch", [0, 2, 4])), "(export.batch.0: should be an integer"),
    "batch reversed": (field(put("export.batch", [1, 2, 1])), "(export.batch.2: should be an integer from 2 to 65536)"),
    "batch of two": (field(put("export.batch", [1, 2])), "(export.batch: should be three numbers)"),
    "fraction": (field(put("engine.bytes", 1.5)), "(engine.bytes: should be an integer"),
    "negative size": (field(put("engine.bytes", -1)), "(engine.bytes: should be an integer"),
    "size over 64 bits": (field(put("engine.bytes", 1 << 70)), "(engine.bytes: should be an integer"),
    "size over 63 bits": (field(put("engine.bytes", (1 << 64) - 1)), "(engine.bytes: should be an integer"),
    "text as number": (field(put("family", 7)), "(family: should be a string)"),
    "flag as number": (
        field(put("engine_options.version_compatible", 1)),
        "(engine_options.version_compatible: should be true or false)",
    ),
    "short hash": (field(put("engine.sha256", "abc")), "(engine.sha256: should be a SHA-256"),
    "upper-case hash": (field(put("engine.sha256", "A" * 64)), "(engine.sha256: should be a SHA-256"),
    "no gpu": (field(put("compute_capabilities", [])), "(compute_capabilities: should name at least one GPU)"),
    "gpu as text": (field(put("compute_capabilities", "SM89")), "(compute_capabilities: should be a list)"),
    "gpu as number": (field(put("compute_capabilities", [89])), "(compute_capabilities.0: should be a string)"),
    "embedded as number": (field(put("plugins.0.embedded", 1)), "(plugins.0.embedded: should be true or false)"),
    "plugins as object": (field(put("plugins", {})), "(plugins: should be a list)"),
    "path as library": (field(put("plugins.0.library", "../x.so")), "(plugins.0.library: should be a file name"),
    "path as decoder": (field(put("decoder_engine.name", "a/b")), "(decoder_engine.name: should be a file name"),
    "absolute path": (field(put("engine.name", "/etc/passwd")), "(engine.name: should be a file name"),
    "backslash": (field(put("engine.name", "..\\x")), "(engine.name: should be a file name"),
    "parent folder": (field(put("engine.name", "..")), "(engine.name: should be a file name"),
    "no name": (field(put("engine.name", "")), "(engine.name: should be a file name"),
    "no parity field": (field(drop("parity")), "(parity: field required)"),
    "parity as list": (field(put("parity", [])), "(parity: should be an object)"),
    "parity without a verdict": (field(drop("parity.passed")), "(parity.passed: field required)"),
    "verdict as null": (field(put("parity.passed", None)), "(parity.passed: should be true or false)"),
    "verdict as text": (field(put("parity.passed", "true")), "(parity.passed: should be true or false)"),
    "verdict as number": (field(put("parity.passed", 0)), "(parity.passed: should be true or false)"),
    "infinite": (rewrite(lambda content: content.replace(b"123.675", b"1e999")), "(invalid JSON"),
    "deeply nested": (
        rewrite(lambda _: b'{"schema_version": 4, "parity": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "(nested deeper than 64 levels)",
    ),
}
BEYOND_PYTHON = {
    "nul in a name": (field(put("engine.name", "a\0b")), "(engine.name: should hold no NUL)"),
    "image size": (field(put("preprocessing.image_size", 512)), "(preprocessing.image_size: should be an integer from"),
    "pixel mean": (field(put("preprocessing.pixel_mean", [1, 2, 3])), "(preprocessing.pixel_mean: should be SAM's own"),
    "pixel std": (field(put("preprocessing.pixel_std", [1])), "(preprocessing.pixel_std: should be SAM's own"),
}
"""What Python leaves to its callers; the C++ runtime prepares images itself and hands names to C functions."""
