"""``inspect``: what a file this project wrote is, and whether it still is what was written."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from .engines.manifest import EngineManifest
from .errors import InvalidInput
from .export.metadata import load_exported
from .ops.function_body import DOMAIN
from .pipeline import ENGINE, MANIFEST


def describe(path: Path) -> dict[str, Any]:
    """Describe an ONNX file, an engine (by the manifest beside it), a manifest, or a folder with a manifest.

    Raises:
        InvalidInput: the path is none of these.
        CheckFailed: the file was edited, or does not match its manifest.
    """
    if path.is_dir():
        path = path / MANIFEST
    if path.suffix == ".onnx":
        return _onnx(path)
    if path.suffix == ".json":
        return _engine(path)
    if path.name == ENGINE:
        return _engine(path.with_name(MANIFEST))
    raise InvalidInput(f"{path} is no ONNX file, engine or manifest; name an .onnx file, {ENGINE} or {MANIFEST}.")


def _onnx(path: Path) -> dict[str, Any]:
    model, metadata = load_exported(path)

    def tensors(values) -> dict[str, list]:
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


def _engine(manifest_path: Path) -> dict[str, Any]:
    manifest = EngineManifest.read(manifest_path)
    manifest.check(manifest_path.parent)
    manifest.check_sources(manifest_path.parent)
    return {"file": str(manifest_path), "matches_engine": True, **manifest.model_dump(mode="json")}
