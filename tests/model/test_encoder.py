"""The product's encoder against Segment Anything's own (dense) and against the oracle (sparse), block by block."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from sparsesam_deploy.errors import DensityError, InvalidInput
from sparsesam_deploy.model.config import DENSE, FAMILIES, ORDERS, PRESETS, ROUTINGS, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from tests.comparison import relative_error
from tests.holdout import preprocess, scenes
from tests.networks import SMALL, nano, noise_image, small_encoder, stock_encoder
from tests.oracle import OracleEncoder

DENSE_TOLERANCE = 1e-5  # largest difference
SPARSE_TOLERANCE = 1e-5  # relative, in L2
DENSITIES = (0.25, 0.3, 0.4, 0.5, 0.75)
COMBINED = [
    (order, routing, DENSITIES[(2 * i + j) % len(DENSITIES)])
    for (i, order), (j, routing) in product(enumerate(ORDERS), enumerate(ROUTINGS))
]
"""Every order with every routing, and each of the densities with every order: attention and MLP meet in no more."""


def sparse_encoder(config: SparsityConfig) -> SparseSamEncoder:
    return SparseSamEncoder(small_encoder(), SMALL, config).eval()


@torch.no_grad()
def assert_matches_oracle(encoder: SparseSamEncoder, oracle: OracleEncoder, image: Tensor) -> None:
    expected = oracle.block_outputs(image)
    # A selection decided by the last bit would make this test a coin toss on another machine.
    assert min(oracle.margins, default=1.0) > 1e-6
    found = list(encoder.streams(image))[1:]
    perm = encoder.perm.long()
    errors = [relative_error(out, raster.flatten(1, 2)[:, perm]) for out, raster in zip(found, expected, strict=True)]
    assert max(errors) <= SPARSE_TOLERANCE, f"relative error of each block: {errors}"
    assert relative_error(encoder(image), oracle.embed(expected[-1])) <= SPARSE_TOLERANCE


@torch.no_grad()
def test_dense_is_segment_anything_on_nano():
    sam, config = nano()
    encoder = SparseSamEncoder(sam.image_encoder, config, DENSE).eval()
    image = preprocess(sam, scenes()[0].image)
    assert (encoder(image) - sam.image_encoder(image)).abs().max() <= DENSE_TOLERANCE


@torch.no_grad()
def test_dense_is_segment_anything_on_two_blocks_of_vit_b():
    generator = torch.Generator().manual_seed(1)
    config = replace(FAMILIES["vit_b"], depth=2, global_blocks=(1,))
    stock = stock_encoder(config)
    for parameter in stock.parameters():
        if parameter.ndim > 1:
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    encoder = SparseSamEncoder(stock, config, DENSE).eval()
    assert (encoder(noise_image()) - stock(noise_image())).abs().max() <= DENSE_TOLERANCE


@torch.no_grad()
def test_dense_oracle_is_segment_anything():
    stock = small_encoder()
    assert relative_error(OracleEncoder(stock, DENSE)(noise_image()), stock(noise_image())) <= 1e-6


@pytest.mark.parametrize(("order", "routing", "density"), COMBINED)
def test_sparse_matches_oracle(order, routing, density):
    config = SparsityConfig(density, density, order=order, routing=routing)
    assert_matches_oracle(sparse_encoder(config), OracleEncoder(small_encoder(), config), noise_image())


VARIANTS = {
    "windows-lattice-0.2": SparsityConfig(0.4, 0.4, 0.2),
    "windows-lattice-0.5": SparsityConfig(0.4, 0.4, 0.5),
    "windows-interleaved-0.4": SparsityConfig(0.4, 0.4, 0.4, order="interleaved"),
    # So few keys that windows at the border leave real groups out: what padding is ranked by shows here alone.
    "windows-ranked-0.2": SparsityConfig(0.4, 1.0, 0.2, order="ranked"),
    "windows-ranked-0.4": SparsityConfig(0.4, 1.0, 0.4, order="ranked"),
    "windows-only-ranked": SparsityConfig(1.0, 1.0, 0.4, order="ranked"),
    "one-offset": SparsityConfig(1 / 64, 1.0),
    "one-tile-ranked": SparsityConfig(1 / 64, 1.0, order="ranked"),
    "almost-dense": SparsityConfig(0.999, 0.999, 0.999, routing="skip-sobel"),
    "almost-dense-share": SparsityConfig(0.999, 0.999),
    "attention-only": SparsityConfig(0.1, 1.0),
    "mlp-only": SparsityConfig(1.0, 0.1, routing="skip-static"),
    "windows-shared-0.25": SparsityConfig(0.4, 0.4, 0.25, windowed_routing="share-variance"),
    "windows-shared-0.5": SparsityConfig(0.4, 0.4, 0.5, windowed_routing="share-variance"),
    "windows-shared-ranked": SparsityConfig(
        0.4, 0.4, 0.4, "ranked", "skip-group-rank", windowed_routing="share-variance"
    ),
    "blocks-windows-shared": SparsityConfig(0.4, 0.4, (0.3, 0.1, 0.6, 1.0), windowed_routing="share-variance"),
    "blocks-lattice": SparsityConfig((1.0, 0.5, 1.0, 0.125), (1.0, 1.0, 0.3, 1.0), (0.5, 1.0, 1.0, 1.0)),
    # The ranking comes from the first block of each kind, also where that block itself is dense.
    "blocks-ranked": SparsityConfig((1.0, 1.0, 1.0, 0.3), 0.4, (1.0, 1.0, 0.4, 1.0), "ranked", "skip-group-rank"),
    "blocks-ranked-global": SparsityConfig((1.0, 1.0, 1.0, 0.3), 1.0, 1.0, "ranked"),
    "blocks-ranked-windowed": SparsityConfig(1.0, 1.0, (1.0, 1.0, 0.4, 1.0), "ranked"),
    "blocks-unused": SparsityConfig((0.2, 0.4, 0.2, 0.4), 1.0, (1.0, 0.1, 1.0, 0.1), "interleaved"),
    "quadtree-0.2": SparsityConfig(0.4, 0.2, routing="share-quadtree"),
    "quadtree-without-a-detailed-group": SparsityConfig(0.4, 0.15625, routing="share-quadtree"),
    "quadtree-almost-dense": SparsityConfig(0.4, 0.999, routing="share-quadtree"),
    "blocks-quadtree": SparsityConfig(0.25, (0.7, 0.4, 0.2, 1.0), routing="share-quadtree"),
    "blocks-every-mlp": SparsityConfig(0.25, (0.7, 0.4, 0.6, 0.25)),
    "blocks-every-mlp-sobel": SparsityConfig(0.25, (0.7, 0.4, 0.6, 0.5), routing="skip-sobel"),
    "blocks-group-rank": SparsityConfig(1.0, (1.0, 0.4, 0.6, 0.5), routing="skip-group-rank"),
}


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_variant_matches_oracle(config):
    assert_matches_oracle(sparse_encoder(config), OracleEncoder(small_encoder(), config), noise_image())


@torch.no_grad()
@pytest.mark.parametrize(
    ("routing", "mlp"), (("share-variance", (0.3,) * 4), ("skip-static", (1.0, 1.0, 0.3, 1.0))), ids=("share", "skip")
)
def test_one_number_is_that_number_in_every_block_it_means(routing, mlp):
    """Rows are shared in every block, but skipped in the windowed ones after the first global one alone."""
    one = SparsityConfig(0.4, 0.3, 0.5, routing=routing)
    many = SparsityConfig((0.4,) * 4, mlp, (0.5,) * 4, routing=routing)
    torch.testing.assert_close(sparse_encoder(many)(noise_image()), sparse_encoder(one)(noise_image()), rtol=0, atol=0)


def test_windowed_density_is_of_keys_or_of_rows():
    shared = SparsityConfig(0.4, 0.3, 0.5, windowed_routing="share-variance").plan(SMALL)
    assert [plan.row_density for plan in shared] == [0.5, 1.0, 0.5, 1.0]
    assert [plan.key_density for plan in shared] == [1.0, 0.4, 1.0, 0.4]
    thinned = SparsityConfig(0.4, 0.3, 0.5).plan(SMALL)
    assert [plan.row_density for plan in thinned] == [1.0] * 4
    assert [plan.key_density for plan in thinned] == [0.5, 0.4, 0.5, 0.4]


@torch.no_grad()
def test_shared_windows_at_density_one_are_dense():
    dense, shared = DENSE, SparsityConfig(1.0, 1.0, 1.0, windowed_routing="share-variance")
    assert torch.equal(sparse_encoder(shared)(noise_image()), sparse_encoder(dense)(noise_image()))


BATCHED = {
    "default": PRESETS["default"],
    "paper": PRESETS["paper"],
    # In one block: what the rounding of one does to near ties in the next is the batch's own.
    "interleaved": SparsityConfig(0.4, (1.0, 1.0, 0.4, 1.0), order="interleaved"),
    **{routing: SparsityConfig(0.4, (1.0, 1.0, 0.3, 1.0), routing=routing) for routing in ROUTINGS},
    "skip-sobel, ranked": SparsityConfig(0.4, 0.4, 0.5, order="ranked", routing="skip-sobel"),
    "windows-shared": SparsityConfig(0.4, 0.4, (0.3, 1.0, 0.6, 1.0), windowed_routing="share-variance"),
}


@torch.no_grad()
@pytest.mark.parametrize("config", BATCHED.values(), ids=BATCHED.keys())
def test_batch_of_two_is_two_singles(config):
    images = [noise_image(0), noise_image(1)]
    encoder = sparse_encoder(config)
    for found, image in zip(encoder(torch.cat(images)), images, strict=True):
        assert relative_error(found, encoder(image)[0]) <= SPARSE_TOLERANCE


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_preset_matches_oracle_on_nano(preset):
    sam, config = nano()
    encoder = SparseSamEncoder(sam.image_encoder, config, PRESETS[preset]).eval()
    oracle = OracleEncoder(sam.image_encoder, PRESETS[preset])
    assert_matches_oracle(encoder, oracle, preprocess(sam, scenes()[1].image))


def test_inputs_tell_variants_apart():
    """No two variants agree on this network and image to within a thousand times the tolerance above."""
    configs = [SparsityConfig(0.4, 0.4, order=order) for order in ORDERS]
    configs += [SparsityConfig(0.4, 0.4, routing=routing) for routing in ROUTINGS[1:]]
    configs += [VARIANTS[name] for name in ("windows-lattice-0.5", "windows-ranked-0.4")]
    configs += [VARIANTS[name] for name in ("windows-shared-0.25", "windows-shared-0.5", "blocks-windows-shared")]
    last = [OracleEncoder(small_encoder(), config).block_outputs(noise_image())[-1] for config in configs]
    for one, other in product(range(len(last)), repeat=2):
        assert one == other or relative_error(last[one], last[other]) > 1e-2, (configs[one], configs[other])


@pytest.mark.parametrize("density", [0.15625, 0.4, 0.999])
def test_rows_of_a_quadtree_are_those_of_its_cells_and_squares(density):
    mlp = sparse_encoder(SparsityConfig(0.4, density, routing="share-quadtree")).blocks[2].mlp
    detailed, merged, _ = mlp.counts
    assert mlp.num_rows == 4 * detailed + (1024 - 4 * merged - detailed) + merged
    assert abs(mlp.num_rows - density * 4096) <= 1.5  # a group is 3 rows more or not
    assert mlp.mlp_rows == mlp.num_rows / 4096


REFUSED = {
    "share-below-a-quarter": {"mlp_density": 0.2},
    "share-just-below-a-quarter": {"mlp_density": 0.2499},
    "share-below-a-quarter-in-one-block": {"mlp_density": (1.0, 1.0, 0.2, 1.0)},
    "quadtree-below-its-least": {"mlp_density": 0.156, "routing": "share-quadtree"},
    "quadtree-below-its-least-in-one-block": {"mlp_density": (1.0, 1.0, 0.1, 1.0), "routing": "share-quadtree"},
    "shared-windows-below-a-quarter": {"windowed_density": 0.2, "windowed_routing": "share-variance"},
    "shared-windows-below-a-quarter-in-one-block": {
        "windowed_density": (1.0, 1.0, 0.2, 1.0),
        "windowed_routing": "share-variance",
    },
    "shared-windows-for-three-blocks": {"windowed_density": (0.5,) * 3, "windowed_routing": "share-variance"},
    "lattice-without-an-offset": {"attention_density": 0.001},
    "lattice-with-less-than-half-an-offset": {"attention_density": 0.0078},
    "ranked-without-a-tile": {"attention_density": 0.01, "order": "ranked"},
    "interleaved-without-a-tile": {"attention_density": 0.01, "order": "interleaved"},
    "attention-for-three-blocks": {"attention_density": (0.4, 0.4, 0.4)},
    "mlp-for-five-blocks": {"mlp_density": (0.4,) * 5},
    "windowed-for-no-block": {"windowed_density": ()},
    "group-rank-before-its-ranking": {"mlp_density": (0.4, 1.0, 1.0, 1.0), "routing": "skip-group-rank"},
    "attention-zero": {"attention_density": 0.0},
    "mlp-zero": {"mlp_density": 0.0},
    "windowed-zero": {"windowed_density": 0.0},
    "attention-one-and-a-half": {"attention_density": 1.5},
    "mlp-one-and-a-half": {"mlp_density": 1.5},
    "windowed-one-and-a-half": {"windowed_density": 1.5},
    "negative-in-one-block": {"attention_density": (0.4, -0.4, 0.4, 0.4)},
    "not-a-number": {"attention_density": float("nan")},
}


@pytest.mark.parametrize("options", REFUSED.values(), ids=REFUSED.keys())
def test_refuses(options):
    with pytest.raises(DensityError):
        sparse_encoder(SparsityConfig(**options))


@pytest.mark.parametrize("name", ["order", "routing", "windowed_routing"])
def test_unknown_words_are_refused(name):
    with pytest.raises(InvalidInput, match=f"{name} 'nearest' is unknown; choose one of .*\\.$"):
        SparsityConfig(**{name: "nearest"})
