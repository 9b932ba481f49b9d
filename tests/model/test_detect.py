"""Families and custom shapes are told by tensor names and shapes alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparsesam_deploy.model.config import FAMILIES
from sparsesam_deploy.model.detect import detect_config
from sparsesam_deploy.model.sam import build_sam


@pytest.mark.parametrize("hq", [False, True], ids=["sam", "hq"])
@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_told_by_shapes(family: str, hq: bool) -> None:
    config = replace(FAMILIES[family], hq=hq)
    assert detect_config(build_sam(config).state_dict(), Path("unused")) == config


@pytest.mark.parametrize(
    "change",
    [
        {"depth": 13},
        {"num_heads": 6},
        {"global_blocks": (3, 7, 11)},
        {"decoder_mlp_dim": 1024},
        {"embed_dim": 768 + 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_shapes_are_custom(change: dict) -> None:
    config = replace(FAMILIES["vit_b"], **change)
    config = replace(config, num_heads=config.embed_dim // 64) if "embed_dim" in change else config
    assert detect_config(build_sam(config).state_dict(), Path("unused")) == replace(config, family="custom")


def test_equal_tables_are_understood_in_a_known_family() -> None:
    """Trained on 224x224 images, a grid is 14x14 and a global table is as long as a windowed one."""
    state = dict(build_sam(FAMILIES["vit_b"]).state_dict())
    for index in FAMILIES["vit_b"].global_blocks:
        for axis in "hw":
            state[f"image_encoder.blocks.{index}.attn.rel_pos_{axis}"] = torch.empty(27, 64, device="meta")
    assert detect_config(state, Path("unused")) == FAMILIES["vit_b"]
