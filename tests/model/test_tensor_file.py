"""Every file that is no readable weights file, and the one sentence that says why."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sparsesam_deploy.model.tensor_file import read_tensor_file

from ..helpers import assert_refused


class RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, (str(self.marker),)


def truncated(write: Callable[[object, Path], None], keep: float) -> Callable[[Path], None]:
    def write_part(path: Path) -> None:
        write({"weight": torch.ones(50, 50)}, path)
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])

    return write_part


def legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def plain_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "not weights")


DAMAGED = "is truncated, damaged or no weights file; download or copy it again"
OBJECTS = "which could run code when loaded; save the weights alone with torch.save(model.state_dict(), ...)"
FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist; check the path, or download the file first"),
    "folder": (lambda path: path.mkdir(), "is a folder; name the weights file in it, such as model.safetensors"),
    "empty": (lambda path: path.touch(), "is empty; download or copy it again"),
    "lfs-pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "is a Git LFS pointer; run `git lfs pull`",
    ),
    "web-page": (
        lambda path: path.write_text("\n<!doctype html><html></html>"),
        "is a web page; download the file itself",
    ),
    "text": (lambda path: path.write_text("weights"), "is neither a torch nor a safetensors file; give a .pth"),
    "zip": (plain_zip, DAMAGED),
    "torch-half": (truncated(torch.save, 0.5), DAMAGED),
    "torch-almost": (truncated(torch.save, 0.99), DAMAGED),
    "legacy-half": (truncated(legacy, 0.5), DAMAGED),
    "legacy-header": (truncated(legacy, 0.005), DAMAGED),
    "safetensors-half": (truncated(save_file, 0.5), DAMAGED),
    "safetensors-header": (truncated(save_file, 0.002), DAMAGED),
    "torchscript": (
        lambda path: torch.jit.script(nn.ReLU()).save(path),
        "is a TorchScript archive; give the state dict it was made from",
    ),
    "module": (
        lambda path: torch.save(nn.ReLU(), path),
        f"holds the Python object torch.nn.modules.activation.ReLU, {OBJECTS}",
    ),
    "arguments": (
        lambda path: torch.save({"model": {}, "args": argparse.Namespace()}, path),
        f"holds the Python object argparse.Namespace, {OBJECTS}",
    ),
    "plain-pickle": (
        lambda path: path.write_bytes(pickle.dumps({"weight": 1}, protocol=4)),
        f"holds Python objects, {OBJECTS}",
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize(("write", "message"), FILES.values(), ids=FILES)
def test_file_that_cannot_be_read(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "sam.pth"
    write(path)
    assert_refused(read_tensor_file, path, message)


@pytest.mark.parametrize("save", [torch.save, legacy], ids=["zip", "legacy"])
def test_pickle_that_runs_code_is_refused_before_it_does(tmp_path: Path, save: Callable) -> None:
    path = tmp_path / "sam.pth"
    save({"model": {"weight": torch.ones(1)}, "extra": RunsCode(tmp_path / "marker")}, path)
    assert_refused(read_tensor_file, path, f"holds the Python object {os.mkdir.__module__}.mkdir, {OBJECTS}")
    assert not (tmp_path / "marker").exists()
