"""Every format a Segment Anything checkpoint comes in, loaded to the same tensors."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sparsesam_deploy.model.checkpoint import load_checkpoint, load_nano
from sparsesam_deploy.model.config import FAMILIES

from ..helpers import TINY, random_tensors

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return random_tensors(TINY)


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def training_state(tensors: Tensors) -> dict[str, object]:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    return {"epoch": 7, "model": tensors, "optimizer": optimizer.state_dict(), "best": 0.5}


def normalised(tensors: Tensors) -> Tensors:
    statistics = {"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375]}
    return tensors | {name: torch.tensor(values).view(3, 1, 1) for name, values in statistics.items()}


WRITERS: dict[str, Callable[[Tensors, Path], None]] = {
    "official": torch.save,
    "legacy-format": lambda tensors, path: torch.save(tensors, path, _use_new_zipfile_serialization=False),
    "safetensors": save_file,
    "parameters": lambda tensors, path: torch.save({n: torch.nn.Parameter(t) for n, t in tensors.items()}, path),
    "data-parallel": lambda tensors, path: torch.save(prefixed("module.", tensors), path),
    "inside-a-class": lambda tensors, path: torch.save(prefixed("sam.", tensors), path),
    "compiled-in-a-class": lambda tensors, path: torch.save(prefixed("_orig_mod.model.", tensors), path),
    "training-checkpoint": lambda tensors, path: torch.save(training_state(tensors), path),
    "training-data-parallel": lambda tensors, path: torch.save(training_state(prefixed("module.", tensors)), path),
    "lightning": lambda tensors, path: torch.save({"state_dict": prefixed("model.", tensors)}, path),
    "wrapped-twice": lambda tensors, path: torch.save({"model": {"state_dict": tensors}}, path),
    "pixel-statistics": lambda tensors, path: torch.save(normalised(tensors), path),
    "safetensors-prefixed": lambda tensors, path: save_file(prefixed("model.", tensors), path),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_format_gives_the_same_model(tensors: Tensors, tmp_path: Path, write) -> None:
    path = tmp_path / "sam_vit_h.ckpt"  # neither the name nor the extension may matter
    write(tensors, path)
    loaded = load_checkpoint(path)
    assert loaded.config == TINY
    assert loaded.source == "sam_vit_h.ckpt"
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not loaded.sam.training
    state = loaded.sam.state_dict()
    assert list(state) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(state[name], tensor), name
    for tensor in [*loaded.sam.parameters(), *loaded.sam.buffers()]:
        assert (tensor.dtype, tensor.device.type, tensor.requires_grad) == (torch.float32, "cpu", False)
    assert loaded.sam.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert loaded.sam.pixel_std.flatten().tolist() == pytest.approx([58.395, 57.12, 57.375])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=["fp16", "bf16", "fp64"])
def test_other_precisions_are_cast_to_fp32(tensors: Tensors, tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({name: tensor.to(dtype) for name, tensor in tensors.items()}, tmp_path / "sam.pth")
    for name, tensor in load_checkpoint(tmp_path / "sam.pth").sam.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, tensors[name].to(dtype).float()), name


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("write", [torch.save, save_file], ids=["pth", "safetensors"])
def test_fp32_tensors_stay_in_the_file(tensors: Tensors, tmp_path: Path, write) -> None:
    write(tensors, tmp_path / "sam")
    loaded = load_checkpoint(tmp_path / "sam")
    weight = loaded.sam.image_encoder.blocks[0].mlp.lin1.weight
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    ranges = [[int(address, 16) for address in fields[0].split("-")] for fields in maps]
    assert any(start <= weight.data_ptr() < end for start, end in ranges)


def test_changing_a_loaded_model_leaves_its_file_alone(tensors: Tensors, tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "sam.pth")
    before = (tmp_path / "sam.pth").read_bytes()
    load_checkpoint(tmp_path / "sam.pth").sam.image_encoder.pos_embed.zero_()
    assert (tmp_path / "sam.pth").read_bytes() == before


def test_nano_ships_with_the_package() -> None:
    loaded = load_nano()
    assert loaded.config == FAMILIES["nano"]
    assert loaded.source == "sam_vit_nano_fp16.safetensors"
    assert sum(parameter.numel() for parameter in loaded.sam.parameters()) == pytest.approx(9.5e6, rel=0.01)
