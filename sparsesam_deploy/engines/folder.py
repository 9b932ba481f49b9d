"""The folder of a build: what its files are called, and what every loader refuses before it opens one of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..artifacts import sha256_file
from ..errors import CheckFailed
from .manifest import MANIFEST, EngineManifest

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
ENGINE, DECODER_ENGINE = "encoder.engine", "decoder.engine"
PARITY, OVERLAY, REJECTED = "parity.json", "overlay.png", "rejected"
ABOUT_AN_ENGINE = (PARITY, OVERLAY, DECODER_ENGINE)
"""What belongs to the engine of a folder, and must not outlive it."""


@dataclass(frozen=True)
class BuildFolder:
    """What ``sparsesam-export build`` writes into ``path``; ``onnx`` writes the two ONNX files alone.

    The properties are where a build puts its files. A loader reads the manifest and takes the names from there.
    """

    path: Path

    @classmethod
    def of(cls, path: str | Path) -> BuildFolder:
        """The folder at ``path``, or the one whose ``manifest.json`` that is; nothing is read yet."""
        path = Path(path)
        return cls(path.parent if path.name == MANIFEST else path)

    @property
    def encoder_onnx(self) -> Path:
        return self.path / ENCODER

    @property
    def decoder_onnx(self) -> Path:
        return self.path / DECODER

    @property
    def engine(self) -> Path:
        return self.path / ENGINE

    @property
    def decoder_engine(self) -> Path:
        return self.path / DECODER_ENGINE

    @property
    def manifest_path(self) -> Path:
        return self.path / MANIFEST

    @property
    def parity_report(self) -> Path:
        return self.path / PARITY

    @property
    def overlay(self) -> Path:
        return self.path / OVERLAY

    @property
    def rejected(self) -> BuildFolder:
        """Where a build goes that failed its parity check."""
        return BuildFolder(self.path / REJECTED)

    def read(self) -> EngineManifest:
        """The manifest of a build that may be used: it passed its parity check, or was made without one.

        Raises:
            InvalidInput: no manifest, or not one of this release.
            CheckFailed: the build failed its parity check.
        """
        manifest = self.read_unjudged()
        if manifest.parity is not None and not manifest.parity.passed:
            raise CheckFailed(
                f"{self.manifest_path} says that this build failed its parity check; see which with `sparsesam-export "
                f"verify {self.path}`, and rebuild with `sparsesam-export build --output {self.path}`."
            )
        return manifest

    def read_unjudged(self) -> EngineManifest:
        """The manifest whatever it says of parity, to look at a build and not to use it. Raises `InvalidInput`."""
        return EngineManifest.read(self.manifest_path)

    def check_engines(
        self, manifest: EngineManifest, builder_version: str | None = None, compute_capability: str | None = None
    ) -> None:
        """Compare the engines here with ``manifest``, and with the runtime and GPU they are to run on, if given.

        ``builder_version`` is the installed runtime's, ``compute_capability`` the GPU's, written like ``SM89``.

        Raises:
            CheckFailed: the first mismatch, with the command that mends it.
        """
        engine = self.path / manifest.engine.name
        if builder_version is not None and not _loads_with(manifest, builder_version):
            built_by = f"{manifest.builder} {manifest.builder_version}"
            raise CheckFailed(
                f"{engine} was built by {built_by}, but {builder_version} is installed; {self._rebuild} or "
                f"`pip install {manifest.builder}=={manifest.builder_version}`."
            )
        if compute_capability is not None and compute_capability not in manifest.compute_capabilities:
            built_for = ", ".join(manifest.compute_capabilities)
            raise CheckFailed(
                f"{engine} was built for {built_for}, but this GPU is {compute_capability}; rebuild here with "
                f"`sparsesam-export build --builder tensorrt --output {self.path}`."
            )
        for library, sha256 in manifest.libraries.items():
            self._check_library(manifest, self.path / library, sha256)
        for record in (manifest.engine, manifest.decoder_engine):
            if record is not None:
                record.check(self.path, self._rebuild)

    def check_sources(self, manifest: EngineManifest) -> None:
        """Compare the ONNX files here with ``manifest``: were they edited after the engine was built?

        Raises:
            CheckFailed: the first mismatch, with the command that mends it.
        """
        self.check_encoder(manifest)
        if manifest.decoder_onnx is not None:
            manifest.decoder_onnx.check(self.path, self._rebuild)

    def check_encoder(self, manifest: EngineManifest) -> None:
        """Compare ``encoder.onnx`` and its weights with ``manifest``; raises as `check_sources`."""
        for record in (manifest.encoder_onnx, *manifest.weight_files):
            record.check(self.path, self._rebuild)

    @property
    def _rebuild(self) -> str:
        return f"rebuild with `sparsesam-export build --output {self.path}`"

    def _check_library(self, manifest: EngineManifest, path: Path, sha256: str) -> None:
        plugins = ", ".join(sorted({plugin.name for plugin in manifest.plugins}))
        needs = f"{manifest.engine.name} needs the plugins {plugins}"
        if not path.is_file():
            raise CheckFailed(f"{needs} of {path}, which is missing; copy the library there or {self._rebuild}.")
        if sha256_file(path) != sha256:
            raise CheckFailed(f"{needs} of another {path.name} than {path}; restore the library or {self._rebuild}.")


def _loads_with(manifest: EngineManifest, version: str) -> bool:
    """The very version it was built by; a version-compatible engine loads with later ones too."""
    found, built = (tuple(map(int, re.findall(r"\d+", text))) for text in (version, manifest.builder_version))
    return found == built or (manifest.version_compatible and found > built)
