"""The network we build is the one Segment Anything and SAM-HQ build."""

from __future__ import annotations

from dataclasses import replace

import pytest
import segment_anything
import torch

from sparsesam_deploy.model.config import FAMILIES
from sparsesam_deploy.model.sam import build_sam

OFFICIAL = ["vit_b", "vit_l", "vit_h"]


@pytest.mark.parametrize("family", OFFICIAL)
def test_network_is_segment_anythings(family: str) -> None:
    with torch.device("meta"):
        official = segment_anything.sam_model_registry[family]()
    ours = build_sam(FAMILIES[family])
    assert repr(ours) == repr(official)
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in official.state_dict().items()}
    for block, reference in zip(ours.image_encoder.blocks, official.image_encoder.blocks, strict=True):
        assert block.window_size == reference.window_size
        assert block.attn.num_heads == reference.attn.num_heads
        assert block.attn.use_rel_pos


@pytest.mark.parametrize("family", OFFICIAL)
def test_hq_network_has_the_authors_tensors(family: str) -> None:
    hq = pytest.importorskip("segment_anything_hq")
    with torch.device("meta"):
        official = hq.sam_model_registry[family]().state_dict()
    ours = build_sam(replace(FAMILIES[family], hq=True)).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in official.items()}
