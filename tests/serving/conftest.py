"""A build that can be served, with engines for compute capability 9.0."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from sparsesam_deploy.progress import Stages
from sparsesam_deploy.serving.options import ServingOptions
from sparsesam_deploy.serving.repository import Repository, write_repository
from tests.serving.builds import declared, make_build


@pytest.fixture(scope="session")
def onnx_files(tmp_path_factory) -> Path:
    return declared(tmp_path_factory.mktemp("declared"))


@pytest.fixture
def build(tmp_path, onnx_files) -> Path:
    return make_build(tmp_path / "sm90", onnx_files)


@pytest.fixture
def write(tmp_path) -> Callable[..., Repository]:
    """Write ``tmp_path/repository`` from some builds; options as keywords."""

    def run(*folders: Path, registration_library: Path | None = None, **options: object) -> Repository:
        chosen, stages = ServingOptions(**options), Stages(Console(file=io.StringIO()))
        return write_repository(folders, tmp_path / "repository", chosen, stages, registration_library)

    return run
