"""``manifest.json`` beside an engine: all that a loader needs to refuse a mismatch before it deserialises anything."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ..artifacts import output_file, sha256_file
from ..errors import CheckFailed, InvalidInput
from ..progress import StageRecord
from .audit import AuditReport

MANIFEST = "manifest.json"
SCHEMA_VERSION = 4
MAX_BYTES = 8 << 20
"""A manifest is some kilobytes, or some hundred with a parity report for every block; anything larger is not one."""

BuilderName = Literal["tensorrt", "tensorrt-rtx"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")]
"""A name inside the manifest's folder: no path leads out of it."""
Share = Annotated[float, Field(gt=0, le=1)]
PerBlock = Share | tuple[Share, ...]


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


class Sparsity(_Record):
    """What part of the encoder is computed: densities for all blocks or for each, and what they come to in effect."""

    attention_density: PerBlock
    mlp_density: PerBlock
    windowed_density: PerBlock
    effective_density: dict[str, Annotated[float, Field(ge=0, le=1)]]
    order: str
    routing: str
    windowed_routing: str = "stripe"


class Preprocessing(_Record):
    """How an image becomes the encoder's input; mean and deviation by channel, in 0 to 255."""

    image_size: int
    patch_size: int
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    layout: str


class BatchProfile(_Record):
    """Smallest, optimal and largest batch size of the engine."""

    min: int
    opt: int
    max: int


class EngineManifest(_Record):
    """What was built, from what, by what, for what, and how it was checked."""

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
    version_compatible: bool = False
    compute_capabilities: Annotated[tuple[str, ...], Field(min_length=1)]
    plugins: tuple[PluginRequirement, ...]
    precision: Literal["fp32", "fp16", "bf16"]
    gelu: Literal["erf", "tanh"]
    sparsity: Sparsity
    preprocessing: Preprocessing
    batch: BatchProfile
    packages: dict[str, str]
    created: AwareDatetime
    audit: AuditReport
    decoder_audit: AuditReport | None
    warnings: tuple[str, ...] = ()
    parity: dict[str, JsonValue] | None
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
            if version != SCHEMA_VERSION:
                raise InvalidInput(
                    f"{path} has schema version {version}, this sparsesam-deploy reads {SCHEMA_VERSION}; "
                    "install the release that wrote it or rebuild with `sparsesam-export build`."
                )
            return cls.model_validate_json(content, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            problem = f"{where}: {first['msg']}" if where else first["msg"]
            raise InvalidInput(
                f"{path} is not an engine manifest ({problem[:200]}); rebuild with `sparsesam-export build`."
            ) from error

    def write(self, path: Path) -> None:
        """Write the manifest, complete or not at all. Raises as `output_file`."""
        with output_file(path) as partial:
            partial.write_text(json.dumps(self.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")

    def check(self, folder: Path, builder_version: str | None = None, compute_capability: str | None = None) -> None:
        """Compare the engines in ``folder`` with this manifest, and with the runtime and GPU it is to run on, if given.

        ``builder_version`` is the installed runtime's, ``compute_capability`` the GPU's, written like ``SM89``.

        Raises:
            CheckFailed: the first mismatch, with the command that mends it.
        """
        engine, rebuild = folder / self.engine.name, f"rebuild with `sparsesam-export build --output {folder}`"
        if builder_version is not None and not self._loads_with(builder_version):
            raise CheckFailed(
                f"{engine} was built by {self.builder} {self.builder_version}, but {builder_version} is installed; "
                f"{rebuild} or `pip install {self.builder}=={self.builder_version}`."
            )
        if compute_capability is not None and compute_capability not in self.compute_capabilities:
            built_for = ", ".join(self.compute_capabilities)
            raise CheckFailed(
                f"{engine} was built for {built_for}, but this GPU is {compute_capability}; rebuild here with "
                f"`sparsesam-export build --builder tensorrt --output {folder}`."
            )
        for library, sha256 in self.libraries.items():
            self._check_library(folder / library, sha256, rebuild)
        for record in (self.engine, self.decoder_engine):
            if record is not None:
                record.check(folder, rebuild)

    def check_sources(self, folder: Path) -> None:
        """Compare the ONNX files in ``folder`` with this manifest: were they edited after the engine was built?

        Raises:
            CheckFailed: the first mismatch, with the command that mends it.
        """
        for record in (self.encoder_onnx, *self.weight_files, self.decoder_onnx):
            if record is not None:
                record.check(folder, f"rebuild with `sparsesam-export build --output {folder}`")

    @property
    def libraries(self) -> dict[str, str]:
        """Plugin libraries to load before the engine, by name, with their SHA-256."""
        return {plugin.library: plugin.sha256 for plugin in self.plugins if not plugin.embedded}

    @property
    def carries_host_code(self) -> bool:
        """Whether the engine brings code for the CPU: a runtime of its own, or plugins."""
        return self.version_compatible or any(plugin.embedded for plugin in self.plugins)

    def _loads_with(self, version: str) -> bool:
        """The very version it was built by; a version-compatible engine loads with later ones too."""
        found, built = (tuple(map(int, re.findall(r"\d+", text))) for text in (version, self.builder_version))
        return found == built or (self.version_compatible and found > built)

    def _check_library(self, path: Path, sha256: str, rebuild: str) -> None:
        needs = f"{self.engine.name} needs the plugins {', '.join(sorted({plugin.name for plugin in self.plugins}))}"
        if not path.is_file():
            raise CheckFailed(f"{needs} of {path}, which is missing; copy the library there or {rebuild}.")
        if sha256_file(path) != sha256:
            raise CheckFailed(f"{needs} of another {path.name} than {path}; restore the library or {rebuild}.")


class _Version(BaseModel):
    """The one field every schema version has."""

    schema_version: int


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror.lower()}; name an engine's manifest.json.") from error
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"{path} is larger than any engine manifest ({MAX_BYTES >> 20} MiB); name another file.")
    return content
