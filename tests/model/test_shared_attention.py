"""Rows that tokens share: who has which, what a row is the mean of, and a decision that is followed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsesam_deploy.model.attention import ImageState
from sparsesam_deploy.model.config import SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.model.shared_attention import SharedAttention, take_rows
from tests.comparison import relative_error
from tests.networks import SMALL, small_encoder

BATCH, NUM_TOKENS, CHANNELS = 2, 4096, 32
densities = pytest.mark.parametrize("density", (0.25, 0.2504, 0.5, 0.9993, 0.9999))


def make(density: float, backend: str = "reference") -> SparseSamEncoder:
    """One of the two windowed blocks, block 2, shares rows."""
    sparsity = SparsityConfig(1.0, 1.0, (1.0, 1.0, density, 1.0), windowed_routing="share-variance")
    return SparseSamEncoder(small_encoder(), SMALL, sparsity, backend=backend).eval()


def stream(seed: int = 0) -> Tensor:
    """(B, N, C); cells differ in how varied they are."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randn(BATCH, NUM_TOKENS // 4, 1, CHANNELS, generator=generator)
    strength = torch.rand(BATCH, NUM_TOKENS // 4, 1, 1, generator=generator)
    noise = torch.randn(BATCH, NUM_TOKENS // 4, 4, CHANNELS, generator=generator)
    return (cells + strength * noise).flatten(1, 2)


@torch.no_grad()
def decide(encoder: SparseSamEncoder, x: Tensor) -> tuple[Tensor, ImageState]:
    """Block 2's attention half and what it decided."""
    state = ImageState()
    return encoder.blocks[2].attend(x, state), state


def test_rows_are_taken_from_their_own_image():
    rows = torch.arange(2 * 3 * 4).view(2, 3, 4)
    index = torch.tensor([[2, 0, 0, 1], [1, 1, 2, 0]], dtype=torch.int32)
    found = take_rows(rows, index)
    assert found.tolist() == [[rows[image, row].tolist() for row in index[image].tolist()] for image in (0, 1)]


@densities
def test_a_pooled_row_is_the_mean_of_the_tokens_it_is_given_to(density: float):
    encoder = make(density)
    attention, x = encoder.blocks[2].attention, stream()
    assert isinstance(attention, SharedAttention)
    row_of_token = decide(encoder, x)[1].decisions[attention.decision_name]
    pooled = attention.pool(x, row_of_token)
    assert pooled.shape == (BATCH, attention.num_rows, CHANNELS)
    for image in range(BATCH):
        tokens_of_row = [[] for _ in range(attention.num_rows)]
        for token, row in enumerate(row_of_token[image].tolist()):
            tokens_of_row[row].append(token)
        assert {len(tokens) for tokens in tokens_of_row} <= {1, 4}
        expected = torch.stack([x[image, tokens].double().mean(0) for tokens in tokens_of_row])
        assert relative_error(pooled[image].double(), expected) <= 1e-6


@densities
def test_rows_are_as_many_as_the_density_says(density: float):
    encoder = make(density)
    attention = encoder.blocks[2].attention
    assert abs(attention.num_rows - density * NUM_TOKENS) <= 1.5  # a group is 3 rows more or not
    assert attention.row_share == attention.num_rows / NUM_TOKENS
    effective = encoder.effective_density
    assert effective["windowed_rows"] == pytest.approx((1 + attention.row_share) / 2, abs=1e-6)
    assert effective["windowed_attention"] == 1
    assert "windowed_rows" not in make(1.0).effective_density


def test_a_decision_is_followed_whatever_the_order_of_its_rows():
    """Other numbers for the same rows change nothing; other rows do."""
    encoder, x = make(0.4), stream()
    out, state = decide(encoder, x)
    (name,) = encoder.decision_names
    attention, row_of_token = encoder.blocks[2].attention, state.decisions[name]
    own = attention.num_own_rows
    turned = torch.where(row_of_token < own, own - 1 - row_of_token, own + attention.num_rows - 1 - row_of_token)
    with torch.no_grad():
        same = encoder.blocks[2].attend(x, ImageState({name: turned}))
        flipped = row_of_token.unflatten(1, (-1, 4)).flip(1).flatten(1)
        other = encoder.blocks[2].attend(x, ImageState({name: flipped}))
    assert relative_error(same, out) <= 1e-6
    assert relative_error(other, out) > 1e-2


def test_the_most_varied_cells_have_rows_of_their_own():
    encoder, x = make(0.4), stream()
    block = encoder.blocks[2]
    row_of_token = decide(encoder, x)[1].decisions[block.attention.decision_name]
    with torch.no_grad():
        cells = block.norm(x).double().view(BATCH, -1, 4, CHANNELS)
    spread = (cells - cells.mean(2, keepdim=True)).square().sum((2, 3))
    for image in range(BATCH):
        detailed = (row_of_token[image, ::4] < block.attention.num_own_rows).nonzero().flatten().tolist()
        best = sorted(range(NUM_TOKENS // 4), key=lambda cell: -spread[image, cell].item())
        assert detailed == sorted(best[: block.attention.num_groups])
