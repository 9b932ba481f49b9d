"""Fixtures for the command line, and where kernels run: on the GPU if there is one, else under Triton's interpreter."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

if not torch.cuda.is_available():  # read when the first kernel is defined
    os.environ["TRITON_INTERPRET"] = "1"

from sparsesam_deploy.cli import main as cli
from sparsesam_deploy.export.decoder import export_decoder
from sparsesam_deploy.model.checkpoint import LoadedSam
from sparsesam_deploy.parity import samples
from tests.cli import readme
from tests.made_once import made_once, random_checkpoint


class Outcome(NamedTuple):
    """What a call of ``sparsesam-export`` did."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Path:
    return random_checkpoint()


@pytest.fixture(scope="session", autouse=True)
def _where_exports_are_made_once(tmp_path_factory) -> None:
    base = tmp_path_factory.getbasetemp()
    made_once.folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def decoder_of() -> Callable[..., Path]:
    """``decoder.onnx`` of a checkpoint in a precision."""

    def exported(loaded: LoadedSam, dtype: str = "fp32") -> Path:
        what = loaded.source, loaded.sha256, loaded.config, dtype
        return made_once("decoder.onnx", what, lambda path: export_decoder(loaded, path, dtype))

    return exported


@pytest.fixture(scope="session")
def built_as_the_readme_says() -> Path:
    """The folder in which README's build was run; not to be written to."""
    return made_once(readme.PRINTED, readme.README, readme.build).parent


@pytest.fixture(scope="module")
def four_points() -> Iterator[None]:
    """An image of a user is asked by 2x2 points in place of 4x4, because every prompt costs three masks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "POINTS_PER_SIDE", 2)
        yield


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts this process and those it starts, as in a terminal.

    Under ``nohup``, and in the background of a script, SIGINT is ignored, and children inherit that. A handler is not
    inherited: a child starts with the default.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def sparsesam_export(monkeypatch, capsys) -> Callable[..., Outcome]:
    """Run ``sparsesam-export`` with the given arguments, as the console script does."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sparsesam-export", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        captured = capsys.readouterr()
        return Outcome(exit_info.value.code or 0, captured.out, captured.err)

    return run
