"""The encoder on other backends: the same network as the reference's, block by block."""

from __future__ import annotations

import pytest
import torch

from sparsesam_deploy.errors import InvalidInput
from sparsesam_deploy.model.attention import ImageState
from sparsesam_deploy.model.config import DENSE, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.model.mlp import RoutedMlp
from sparsesam_deploy.ops.routing import ROUTING_RULES
from tests.comparison import relative_error
from tests.helpers import TINY, random_sam
from tests.networks import noise_image
from tests.ops.kernels import DEVICE, launch_in_blocks

ONE_BLOCK = (1.0, 1.0, 0.4, 1.0)
SPARSITY = SparsityConfig(mlp_density=ONE_BLOCK, windowed_density=ONE_BLOCK, windowed_routing="share-variance")
"""One windowed block is dense, the other shares rows; rounding would decide ties in further ones."""


@torch.inference_mode()
def test_kernels_compute_the_reference(monkeypatch, tmp_path):
    launch_in_blocks(monkeypatch, tmp_path, 1024)
    image_encoder, image = random_sam(TINY).image_encoder.to(DEVICE), noise_image().to(DEVICE)
    streams, decisions = {}, {}
    for backend in ("reference", "triton"):
        encoder, state = SparseSamEncoder(image_encoder, TINY, SPARSITY, backend=backend), ImageState()
        streams[backend] = list(encoder.streams(image, state))
        decisions[backend] = state.decisions
    assert decisions["reference"].keys() == decisions["triton"].keys()
    for name, expected in decisions["reference"].items():
        assert torch.equal(decisions["triton"][name], expected), name
    for index, (found, expected) in enumerate(zip(streams["triton"], streams["reference"], strict=True)):
        assert relative_error(found, expected) <= 1e-5, f"stream {index}"


FUSED = {
    "default": SparsityConfig(),
    "dense": DENSE,
    "windows-shared": SPARSITY,
    "windows-thinned": SparsityConfig(0.4, 0.4, 0.4),
    "skipped": SparsityConfig(0.1, 0.4, routing="skip-sobel"),
    "windows-interleaved": SparsityConfig(1.0, 1.0, 0.4, order="interleaved"),
    "windows-ranked": SparsityConfig(1.0, 0.4, 0.4, order="ranked", routing="skip-group-rank"),
}


@torch.inference_mode()
@pytest.mark.parametrize("name", FUSED)
def test_fused_attention_computes_the_reference(name: str):
    """Each block given the reference's stream and decisions, as rounding would decide ties in later ones."""
    image_encoder, image = random_sam(TINY).image_encoder, noise_image()
    reference, fused = (
        SparseSamEncoder(image_encoder, TINY, FUSED[name], backend=backend) for backend in ("reference", "sdpa")
    )
    state = ImageState()
    streams = list(reference.streams(image, state))
    for index, block in enumerate(fused.blocks):
        found = block(streams[index], state)
        assert relative_error(found, streams[index + 1]) <= 1e-5, f"block {index}"


@pytest.mark.parametrize("routing", [routing for routing, rule in ROUTING_RULES.items() if not rule.by_ranking])
@torch.inference_mode()
def test_each_routing_on_kernels_computes_the_reference(routing, monkeypatch, tmp_path):
    """Its MLP alone, on the stream of a whole image; for the rest of the encoder see above."""
    sparsity = SparsityConfig(mlp_density=ONE_BLOCK, routing=routing)
    launch_in_blocks(monkeypatch, tmp_path, 256)
    generator = torch.Generator().manual_seed(0)
    strength = torch.randn(1, TINY.num_tokens // 4, 1, generator=generator).exp().repeat_interleave(4, 1)
    x = (strength * torch.randn(1, TINY.num_tokens, TINY.embed_dim, generator=generator)).to(DEVICE)
    image_encoder, found = random_sam(TINY).image_encoder.to(DEVICE), {}
    for backend in ("reference", "triton"):
        encoder = SparseSamEncoder(image_encoder, TINY, sparsity, backend=backend)
        (mlp,) = (block.mlp for block in encoder.blocks if isinstance(block.mlp, RoutedMlp))
        found[backend] = mlp(x, ImageState()) - x
    assert relative_error(found["triton"], found["reference"]) <= 1e-5


def test_an_encoder_on_the_cpu_is_refused_without_the_interpreter(monkeypatch):
    from sparsesam_deploy.ops import triton_language

    monkeypatch.setattr(triton_language, "INTERPRETED", triton_language.tl.constexpr(False))
    encoder = SparseSamEncoder(random_sam(TINY).image_encoder, TINY, SparsityConfig(), backend="triton")
    with pytest.raises(InvalidInput, match="move model and input to a GPU"):
        encoder(noise_image())
