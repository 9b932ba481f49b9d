"""Costs are those that the network's dimensions give by hand."""

from __future__ import annotations

import pytest
import torch

from sparsesam_deploy.accuracy.evaluation.multiplications import cost_of_choice, encoder_work
from sparsesam_deploy.model.config import DENSE, FAMILIES, SamConfig, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from tests.networks import stock_encoder

TOKENS = 4096
QUADTREE_ROWS = {0.2: 4 * 60 + 452 + 128, 0.4: 4 * 333 + 179 + 128, 0.7: 4 * 696 + 82}
"""Of share-quadtree by density, by hand: 4 for each detailed group, one for each flat one and each merged square."""


def stock(config: SamConfig):
    """Shapes only: no weight of a ViT-H is ever made."""
    with torch.device("meta"):
        return stock_encoder(config)


@pytest.mark.parametrize("family", ["nano", "vit_b", "vit_l", "vit_h"])
def test_the_dense_work_is_the_textbooks(family):
    config = FAMILIES[family]
    work = encoder_work(SparseSamEncoder(stock(config), config, DENSE))
    windowed, channels = config.depth - len(config.global_blocks), config.embed_dim
    assert work.gemm == config.depth * 12 * channels**2 * TOKENS
    pairs = len(config.global_blocks) * TOKENS**2 + windowed * 25 * 196**2
    assert work.attention == pytest.approx(2 * channels * pairs)


@pytest.mark.parametrize(("family", "share"), [("nano", 0.8), ("vit_b", 0.8), ("vit_h", 0.7375)])
def test_late_mlps_cost_what_the_docs_say(family, share):
    """At MLP density 0.4 in the routed blocks: 0.80 of the nano model's linear layers, 0.74 of ViT-H's."""
    config = FAMILIES[family]
    late = tuple(0.4 if block in config.routed_blocks else 1.0 for block in range(config.depth))
    assert cost_of_choice(stock(config), config, SparsityConfig(0.25, late)).gemm == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("family", ["nano", "vit_b", "vit_l", "vit_h"])
def test_the_default_preset_costs_two_thirds(family):
    """MLPs are two thirds of the linear layers, and half of their rows are computed."""
    config = FAMILIES[family]
    assert cost_of_choice(stock(config), config, SparsityConfig()).gemm == pytest.approx(2 / 3, abs=1e-3)


def test_dense_is_one():
    cost = cost_of_choice(stock(FAMILIES["nano"]), FAMILIES["nano"], DENSE)
    assert (cost.gemm, cost.flops, cost.bytes, cost.ms) == (1, 1, 1, None)


def test_every_half_counts_for_itself():
    """A quarter of the keys in global blocks, half the MLP rows of one block."""
    config = FAMILIES["nano"]
    channels, dense = config.embed_dim, cost_of_choice(stock(config), config, DENSE)
    halved = SparsityConfig(1.0, (1.0,) * 3 + (0.5,) + (1.0,) * 8, routing="skip-static")
    found = cost_of_choice(stock(config), config, halved)
    assert found.gemm == pytest.approx(1 - 0.5 * 8 / 12 / 12)
    quartered = cost_of_choice(stock(config), config, SparsityConfig(0.25, 1.0))
    assert quartered.gemm == 1
    gemm, pairs = 12 * 12 * channels**2 * TOKENS, 2 * channels * (4 * TOKENS**2 + 8 * 25 * 196**2)
    assert quartered.flops == pytest.approx(1 - 0.75 * 2 * channels * 4 * TOKENS**2 / (gemm + pairs))
    assert 0.5 < quartered.bytes <= dense.bytes
    assert found.bytes < 1


@pytest.mark.parametrize(("density", "rows"), QUADTREE_ROWS.items())
def test_what_quadtree_rows_cost(density, rows):
    """In one MLP of twelve; 8 of a block's 12 C^2 weights are its MLP's, and a row is 10 C numbers there."""
    config = FAMILIES["nano"]
    sparsity = SparsityConfig(1.0, (1.0,) * 3 + (density,) + (1.0,) * 8, routing="share-quadtree")
    found, dense = (encoder_work(SparseSamEncoder(stock(config), config, choice)) for choice in (sparsity, DENSE))
    assert dense.gemm - found.gemm == 8 * config.embed_dim**2 * (TOKENS - rows)
    assert dense.bytes - found.bytes == 2 * 10 * config.embed_dim * (TOKENS - rows)
    assert dense.attention == found.attention
