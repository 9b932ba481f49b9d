"""A build that can be served, for the command that serves it, and an export for those that need one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsesam_deploy import pipeline
from sparsesam_deploy.cli.main import cli
from sparsesam_deploy.model.checkpoint import LoadedSam
from tests.made_once import made_once
from tests.serving.conftest import build, onnx_files  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def decoders_exported_once(decoder_of) -> Iterator[None]:
    """Of commands that run in this process."""

    def export_once(loaded: LoadedSam, path: Path, dtype: str = "fp32") -> None:
        shutil.copyfile(decoder_of(loaded, dtype), path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "export_decoder", export_once)
        yield


@pytest.fixture(scope="session")
def tiny_export(tiny_checkpoint) -> Path:
    """``encoder.onnx`` and ``decoder.onnx`` of the tiny checkpoint in fp16, by the command; not to be written to."""

    def export(folder: Path) -> None:
        arguments = ("onnx", "--checkpoint", tiny_checkpoint, "--dtype", "fp16", "--output", folder)
        cli.main([str(argument) for argument in arguments], standalone_mode=False)

    return made_once("exported", "by the command", export)
