"""A build that can be served, for the command that serves it, and an export for those that need one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsesam_deploy import pipeline
from sparsesam_deploy.cli.main import cli
from sparsesam_deploy.export.decoder import export_decoder
from sparsesam_deploy.model.checkpoint import LoadedSam
from tests.serving.conftest import build, onnx_files  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def decoders_exported_once(tmp_path_factory) -> Iterator[None]:
    """Commands that run in this process export each checkpoint's decoder once in each precision: it takes seconds."""
    exports = tmp_path_factory.mktemp("decoders")

    def export_once(loaded: LoadedSam, path: Path, dtype: str = "fp32") -> None:
        kept = exports / f"{loaded.sha256}-{dtype}" / path.name
        if not kept.exists():
            kept.parent.mkdir()
            export_decoder(loaded, kept, dtype)
        shutil.copyfile(kept, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "export_decoder", export_once)
        yield


@pytest.fixture(scope="session")
def tiny_export(tiny_checkpoint, tmp_path_factory) -> Path:
    """``encoder.onnx`` and ``decoder.onnx`` of the tiny checkpoint in fp16, by the command; not to be written to."""
    folder = tmp_path_factory.mktemp("tiny") / "exported"
    arguments = ("onnx", "--checkpoint", tiny_checkpoint, "--dtype", "fp16", "--output", folder)
    cli.main([str(argument) for argument in arguments], standalone_mode=False)
    return folder
