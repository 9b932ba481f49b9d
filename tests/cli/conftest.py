"""A build that can be served, for the command that serves it, and an export for those that need one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsesam_deploy.cli.main import cli
from tests.serving.conftest import build, onnx_files  # noqa: F401


@pytest.fixture(scope="session")
def tiny_export(tiny_checkpoint, tmp_path_factory) -> Path:
    """``encoder.onnx`` and ``decoder.onnx`` of the tiny checkpoint in fp16, by the command; not to be written to."""
    folder = tmp_path_factory.mktemp("tiny") / "exported"
    arguments = ("onnx", "--checkpoint", tiny_checkpoint, "--dtype", "fp16", "--output", folder)
    cli.main([str(argument) for argument in arguments], standalone_mode=False)
    return folder
