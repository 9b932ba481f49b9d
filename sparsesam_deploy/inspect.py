"""``inspect``: what a file this project wrote is, and whether it still is what was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx

from .engines.folder import ENGINE, BuildFolder
from .engines.manifest import MANIFEST
from .errors import InvalidInput
from .export.metadata import load_exported
from .ops.function_body import DOMAIN


def describe(path: Path) -> dict[str, Any]:
    """Describe an ONNX file, an engine (by the manifest beside it), a manifest, or a folder with a manifest.

    Raises:
        InvalidInput: the path is none of these.
        CheckFailed: the file was edited, or does not match its manifest.
    """
    if path.is_dir() or path.name == MANIFEST:
        return _engine(BuildFolder.of(path))
    if path.name == ENGINE:
        return _engine(BuildFolder(path.parent))
    if path.suffix == ".onnx":
        return _onnx(path)
    raise InvalidInput(f"{path} is no ONNX file, engine or manifest; name an .onnx file, {ENGINE} or {MANIFEST}.")


def _onnx(path: Path) -> dict[str, Any]:
    model, metadata = load_exported(path)

    def tensors(values: Iterable[onnx.ValueInfoProto]) -> dict[str, list[str | int]]:
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        **metadata,
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "inputs": tensors(model.graph.input),
        "outputs": tensors(model.graph.output),
        "custom_nodes": dict(Counter(node.op_type for node in model.graph.node if node.domain == DOMAIN)),
        "standard_nodes": sum(node.domain != DOMAIN for node in model.graph.node),
    }


def _engine(folder: BuildFolder) -> dict[str, Any]:
    """A rejected build is described like any other: this is how one looks at it."""
    manifest = folder.read_unjudged()
    folder.check_engines(manifest)
    folder.check_sources(manifest)
    return {"file": str(folder.manifest_path), "matches_engine": True, **manifest.model_dump(mode="json")}
