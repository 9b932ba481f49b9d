"""``manifest.json`` beside an engine: all that a loader needs to refuse a mismatch before it deserialises anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, StrictBool, ValidationError

from ..artifacts import output_file, sha256_file
from ..errors import CheckFailed, InvalidInput
from ..export.options import ExportOptions
from ..model.config import SparsityConfig
from ..progress import StageRecord
from .audit import AuditReport
from .options import BuilderName, EngineOptions

MANIFEST = "manifest.json"
SCHEMA_VERSION: Final = 4
MAX_BYTES = 8 << 20
"""A manifest is some kilobytes, or some hundred with a parity report for every block; anything larger is not one."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")]
"""A name inside the manifest's folder: no path leads out of it."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileRecord(_Record):
    """A file of the manifest's folder: its name, the SHA-256 of its content and its size in bytes."""

    name: FileName
    sha256: Sha256
    bytes: int = Field(ge=0, lt=1 << 63)  # the C++ loader reads it as int64_t

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        return cls(name=path.name, sha256=sha256_file(path), bytes=path.stat().st_size)

    def check(self, folder: Path, remedy: str) -> None:
        """Raise `CheckFailed` unless ``folder`` holds exactly this file; the size is compared before the hash."""
        path = folder / self.name
        if not path.is_file():
            raise CheckFailed(f"{path}, named by its manifest, is missing; {remedy}.")
        if (size := path.stat().st_size) != self.bytes:
            raise CheckFailed(f"{path} has {size} bytes, but its manifest says {self.bytes}; {remedy}.")
        if sha256_file(path) != self.sha256:
            raise CheckFailed(f"{path} has changed since its manifest was written; {remedy}.")


class Checkpoint(_Record):
    """The weights an engine was made from: where they came from, and the SHA-256 of that file."""

    source: str
    sha256: Sha256


class PluginRequirement(_Record):
    """A plugin the engine needs: its name, version and namespace, and the library it was built with.

    ``embedded`` says that the engine carries the library, which then needs not be loaded.
    """

    name: str
    version: str
    namespace: str
    library: FileName
    sha256: Sha256
    embedded: bool = False


class Preprocessing(_Record):
    """How an image becomes the encoder's input; mean and deviation by channel, in 0 to 255."""

    image_size: int
    patch_size: int
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    layout: str


class BatchProfile(NamedTuple):
    """Smallest, usual and largest batch size of the engine."""

    min: int
    opt: int
    max: int


class ParitySummary(_Record):
    """Whether all figures of the parity check were within tolerance, and any figures beside it, as they are."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    passed: StrictBool


class EngineManifest(_Record):
    """What was built, from what, by what, for what, and how it was checked; ``parity`` is null if it was not.

    `BuildFolder` compares it with the files beside it.
    """

    schema_version: Literal[4] = SCHEMA_VERSION
    engine: FileRecord
    decoder_engine: FileRecord | None
    encoder_onnx: FileRecord
    weight_files: tuple[FileRecord, ...] = ()
    decoder_onnx: FileRecord | None
    checkpoint: Checkpoint
    family: str
    builder: BuilderName
    builder_version: str
    engine_options: EngineOptions
    compute_capabilities: Annotated[tuple[str, ...], Field(min_length=1)]
    plugins: tuple[PluginRequirement, ...]
    export: ExportOptions
    sparsity: SparsityConfig
    effective_density: dict[str, Annotated[float, Field(ge=0, le=1)]]
    preprocessing: Preprocessing
    packages: dict[str, str]
    created: AwareDatetime
    audit: AuditReport
    decoder_audit: AuditReport | None
    warnings: tuple[str, ...] = ()
    parity: ParitySummary | None
    stages: tuple[StageRecord, ...]

    @classmethod
    def read(cls, path: Path) -> EngineManifest:
        """Read and validate a manifest.

        Raises:
            InvalidInput: the file cannot be read, is no manifest, or is one of another schema version.
        """
        content = _read(path)
        try:
            version = _Version.model_validate_json(content).schema_version
        except ValidationError as error:
            raise _no_manifest(path, error) from error
        if version != SCHEMA_VERSION:
            raise InvalidInput(
                f"{path} has schema version {version}, this sparsesam-deploy reads {SCHEMA_VERSION}; "
                "install the release that wrote it or rebuild with `sparsesam-export build`."
            )
        try:
            return cls.model_validate_json(content, strict=True)
        except (ValidationError, InvalidInput) as error:
            raise _no_manifest(path, error) from error

    def write(self, path: Path) -> None:
        """Write the manifest, complete or not at all. Raises as `output_file`."""
        with output_file(path) as partial:
            partial.write_text(json.dumps(self.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")

    @property
    def batch(self) -> BatchProfile:
        """The batch sizes it takes."""
        return BatchProfile(*self.export.batch)

    @property
    def version_compatible(self) -> bool:
        """Whether later releases of TensorRT can load the engine."""
        return self.engine_options.version_compatible

    @property
    def libraries(self) -> dict[str, str]:
        """Plugin libraries to load before the engine, by name, with their SHA-256."""
        return {plugin.library: plugin.sha256 for plugin in self.plugins if not plugin.embedded}

    @property
    def carries_host_code(self) -> bool:
        """Whether the engine brings code for the CPU: a runtime of its own, or plugins."""
        return self.version_compatible or any(plugin.embedded for plugin in self.plugins)


class _Version(BaseModel):
    """The one field every schema version has."""

    schema_version: int


def _no_manifest(path: Path, error: ValidationError | InvalidInput) -> InvalidInput:
    problem = str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        problem = f"{where}: {first['msg']}" if where else first["msg"]
    return InvalidInput(f"{path} is not an engine manifest ({problem[:200]}); rebuild with `sparsesam-export build`.")


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidInput(f"cannot read {path}: {reason}; name an engine's {MANIFEST}.") from error
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"{path} is larger than any engine manifest ({MAX_BYTES >> 20} MiB); name another file.")
    return content
