"""The encoder through the Triton kernels: the same network as the reference's, block by block."""

from __future__ import annotations

import pytest
import torch

from sparsesam_deploy.errors import InvalidInput
from sparsesam_deploy.model.attention import ImageState
from sparsesam_deploy.model.config import SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from tests.helpers import TINY, random_sam
from tests.networks import noise_image, relative_error
from tests.ops.kernels import DEVICE, launch_in_blocks

SPARSITY = SparsityConfig(windowed_density=0.5, windowed_routing="share-variance")
"""One windowed block is dense, the other shares rows; all else is as by default."""


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


def test_a_routing_without_kernels_is_refused_at_once():
    image_encoder, sparsity = random_sam(TINY).image_encoder, SparsityConfig(routing="share-quadtree")
    with pytest.raises(InvalidInput, match=r"^share-quadtree has no Triton kernels; use .*share-variance\.$"):
        SparseSamEncoder(image_encoder, TINY, sparsity, backend="triton")
    SparseSamEncoder(image_encoder, TINY, SparsityConfig(mlp_density=1.0, routing="share-quadtree"), backend="triton")


def test_an_encoder_on_the_cpu_is_refused_without_the_interpreter(monkeypatch):
    from sparsesam_deploy.ops import triton_language

    monkeypatch.setattr(triton_language, "INTERPRETED", triton_language.tl.constexpr(False))
    encoder = SparseSamEncoder(random_sam(TINY).image_encoder, TINY, SparsityConfig(), backend="triton")
    with pytest.raises(InvalidInput, match="move model and input to a GPU"):
        encoder(noise_image())
