"""Checkpoints trained on other image sizes: their tables are resized as Segment Anything itself would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor

from sparsesam_deploy.model.checkpoint import load_checkpoint

from ..helpers import TINY, random_tensors

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return random_tensors(TINY)


def with_tables(tensors: Tensors, global_length: int, windowed_length: int) -> Tensors:
    """The same model with random relative-position tables of other lengths."""
    generator = torch.Generator().manual_seed(1)
    lengths = {1: global_length, 3: global_length, 0: windowed_length, 2: windowed_length}
    return tensors | {
        f"image_encoder.blocks.{index}.attn.rel_pos_{axis}": torch.randn(length, TINY.head_dim, generator=generator)
        for index, length in lengths.items()
        for axis in "hw"
    }


@pytest.mark.parametrize(
    ("global_length", "windowed_length"),
    [(31, 27), (255, 27), (127, 13), (31, 13), (13, 27)],
    ids=["256-pixels", "2048-pixels", "windows-of-7", "both-other", "grid-smaller-than-window"],
)
def test_relative_position_tables_are_resized_like_sams(
    tensors: Tensors, tmp_path: Path, global_length: int, windowed_length: int
) -> None:
    stored = with_tables(tensors, global_length, windowed_length)
    torch.save(stored, tmp_path / "sam.pth")
    loaded = load_checkpoint(tmp_path / "sam.pth")
    assert loaded.config == TINY
    for index, block in enumerate(loaded.sam.image_encoder.blocks):
        size = 64 if index in TINY.global_blocks else 14
        for axis in "hw":
            table = getattr(block.attn, f"rel_pos_{axis}")
            original = stored[f"image_encoder.blocks.{index}.attn.rel_pos_{axis}"]
            assert table.shape == (2 * size - 1, TINY.head_dim)
            assert torch.equal(get_rel_pos(size, size, table), get_rel_pos(size, size, original))


@pytest.mark.parametrize("grid", [16, 32, 100], ids=["256-pixels", "512-pixels", "1600-pixels"])
def test_position_embedding_is_resized_bilinearly(tensors: Tensors, tmp_path: Path, grid: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    ramp = torch.zeros(1, grid, grid, TINY.embed_dim)
    ramp[0, :, :, 0], ramp[0, :, :, 1] = rows, columns
    torch.save(tensors | {"image_encoder.pos_embed": ramp}, tmp_path / "sam.pth")
    resized = load_checkpoint(tmp_path / "sam.pth").sam.image_encoder.pos_embed
    # Bilinear interpolation reproduces a ramp: pixel centres map to pixel centres, and the border repeats.
    expected = ((torch.arange(64) + 0.5) * grid / 64 - 0.5).clamp(0, grid - 1)
    assert resized.shape == (1, 64, 64, TINY.embed_dim)
    torch.testing.assert_close(resized[0, :, :, 0], expected[:, None].expand(64, 64), atol=1e-4, rtol=0)
    torch.testing.assert_close(resized[0, :, :, 1], expected[None, :].expand(64, 64), atol=1e-4, rtol=0)
