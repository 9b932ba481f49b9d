"""What an exported file says about itself, and the digest that shows whether it was edited since.

All keys start with ``sparsesam.``; values are strings, numbers and lists as JSON.
"""

from __future__ import annotations

import hashlib
import json
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from ..errors import CheckFailed, InvalidInput
from ..model.config import IMAGE_SIZE, PATCH_SIZE, PIXEL_MEAN, PIXEL_STD, SparsityConfig

PREFIX = "sparsesam."
DIGEST = PREFIX + "content_sha256"
PREPROCESSING = {
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
    "pixel_mean": PIXEL_MEAN,
    "pixel_std": PIXEL_STD,
    "layout": "RGB, longest side resized to image_size, normalised, zero-padded right and below, NCHW",
}


def package_versions() -> dict[str, str]:
    """Versions of what takes part in an export, and of ONNX Runtime, which judges it, where that is installed."""
    names = ("sparsesam-deploy", "torch", "onnx", "onnxscript", "segment-anything")
    found = {"python": platform.python_version(), **{name: version(name) for name in names}}
    with suppress(ImportError):  # of its two packages the one that is imported
        import onnxruntime

        found["onnxruntime"] = onnxruntime.__version__
    return found


def content_digest(model: onnx.ModelProto, folder: Path) -> str:
    """SHA-256 over graph, functions, opsets, weights and metadata, but for its own entry there.

    Weights are hashed piece by piece: a ViT-H is never held twice. ``folder`` is where external data lies.
    """
    digest = hashlib.sha256()
    metadata = sorted((entry for entry in model.metadata_props if entry.key != DIGEST), key=lambda entry: entry.key)
    graph = model.graph
    for part in (*metadata, *model.opset_import, *model.functions, *graph.input, *graph.output, *graph.node):
        digest.update(part.SerializeToString(deterministic=True))
    for weight in model.graph.initializer:
        digest.update(f"{weight.name}:{weight.data_type}:{list(weight.dims)}".encode())
        if weight.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in weight.external_data}
            digest.update(json.dumps(entries, sort_keys=True).encode())
        elif weight.HasField("raw_data"):
            digest.update(weight.raw_data)
        else:
            digest.update(weight.SerializeToString(deterministic=True))
    for name in weight_files(model):
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise InvalidInput(f"weights file {path} is missing; keep it beside its ONNX file or export again.")
        with open(path, "rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()


def weight_files(model: onnx.ModelProto) -> list[str]:
    """Names of the files beside the graph that hold its weights; none when they are in it."""
    entries = (entry for weight in model.graph.initializer for entry in weight.external_data)
    return sorted({entry.value for entry in entries if entry.key == "location"})


def set_metadata(model: onnx.ModelProto, values: dict[str, Any]) -> None:
    """Add ``values`` under the project's prefix."""
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        model.metadata_props.add(key=PREFIX + key, value=text)


def read_metadata(model: onnx.ModelProto) -> dict[str, Any]:
    """The project's metadata of a loaded file, JSON decoded, without the prefix; empty for foreign files."""
    values = {}
    for entry in model.metadata_props:
        if entry.key.startswith(PREFIX):
            try:
                values[entry.key.removeprefix(PREFIX)] = json.loads(entry.value)
            except ValueError:
                values[entry.key.removeprefix(PREFIX)] = entry.value
    return values


def load_exported(path: Path, kind: str | None = None) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Open a file this project exported, an ``encoder`` or ``decoder`` if so asked, without loading external weights.

    Returns:
        The model and its metadata.

    Raises:
        InvalidInput: no such file, not ONNX, not exported by this project, or of another kind.
        CheckFailed: the file was edited after the export.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise InvalidInput(f"ONNX file {path} does not exist; make it with `sparsesam-export onnx`.") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidInput(
            f"ONNX file {path} cannot be read: {reason}; name an encoder.onnx or decoder.onnx."
        ) from error
    except Exception as error:
        raise InvalidInput(f"{path} is not a readable ONNX file ({type(error).__name__}); export it again.") from error
    metadata = read_metadata(model)
    recorded = metadata.get("content_sha256")
    if recorded is None:
        raise InvalidInput(
            f"{path} was not exported by sparsesam-export (no sparsesam metadata); export the checkpoint again."
        )
    if content_digest(model, path.parent) != recorded:
        raise CheckFailed(f"{path} was edited after its export (content digest differs); export the checkpoint again.")
    if kind is not None and metadata.get("kind") != kind:
        raise InvalidInput(f"{path} is the {metadata.get('kind')} of a model; name its {kind}.onnx.")
    return model, metadata


def sparsity_of(metadata: dict) -> SparsityConfig:
    """The sparsity an exported encoder says it has."""
    densities = {}
    for name in ("attention_density", "mlp_density", "windowed_density"):
        value = metadata[name]
        densities[name] = tuple(value) if isinstance(value, list) else value
    diagonal = metadata["diagonal"] if metadata["order"] == "lattice" else None
    return SparsityConfig(
        **densities,
        order=metadata["order"],
        routing=metadata["routing"],
        diagonal=diagonal,
        windowed_routing=metadata.get("windowed_routing", "stripe"),  # which older files do not have
    )
