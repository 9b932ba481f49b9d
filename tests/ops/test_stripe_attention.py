"""``stripe_attention`` against explicit masks in float64, and every node's portable body against the reference."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from sparsesam_deploy.errors import InvalidInput
from sparsesam_deploy.model import order
from sparsesam_deploy.ops.stripe_attention import Stripe, stripe_attention
from sparsesam_deploy.ops.stripe_attention.onnx import ATTRIBUTES, PATTERNS, Pattern
from tests.comparison import relative_error
from tests.ops.nodes import BODY_TOLERANCE, DTYPES, FUNCTIONS, REFERENCE_TOLERANCE, run_node

BATCH, NUM_HEADS, GRID, WINDOW, TILE = 2, 2, 16, 14, 64
NUM_TOKENS, NUM_WINDOWS = GRID**2, 4
STATIC, DENSE, INTERLEAVED, RANKED = PATTERNS[:4]
node_types = pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.node_type)
head_dims = pytest.mark.parametrize("head_dim", (32, 64, 80), ids="head_dim-{}".format)


@dataclass(frozen=True)
class Case:
    """Arguments of `stripe_attention`; the tables are random, because the operator must not rely on any order."""

    qkv: Tensor
    qkv_bias: Tensor
    rel_pos_h: Tensor
    rel_pos_w: Tensor
    stripe: Stripe

    def tensors(self) -> tuple[Tensor, ...]:
        return self.qkv, self.qkv_bias, self.rel_pos_h, self.rel_pos_w

    def run(self) -> Tensor:
        return stripe_attention(*self.tensors(), self.stripe, NUM_HEADS)

    def run_body(self, pattern: Pattern) -> Tensor:
        values = {**vars(self.stripe), **vars(self)}
        inputs = {name: values[name] for name in pattern.inputs}
        scale = (self.qkv.shape[2] // 3 // NUM_HEADS) ** -0.5
        attributes = {"num_heads": NUM_HEADS, "scale": scale, "lattice_offsets": self.stripe.lattice_offsets or 0}
        (out,) = run_node(pattern.node_type, inputs, attributes, {"out": self.qkv.dtype})
        return out


def make_case(pattern: Pattern, head_dim: int, dtype: torch.dtype, num_tiles: int = 2, seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed)
    size = WINDOW if pattern.windowed else GRID
    length, channels = size * size, NUM_HEADS * head_dim

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    def shuffled(count: int) -> Tensor:
        return torch.randperm(count, generator=generator).to(torch.int32)

    coordinate = torch.arange(size, dtype=torch.int32)
    tables = {"rel_index": coordinate[:, None] - coordinate[None, :] + size - 1}
    if pattern.windowed:
        place = shuffled(NUM_WINDOWS * length)[:NUM_TOKENS]
        members = torch.full((NUM_WINDOWS * length,), NUM_TOKENS, dtype=torch.int32)
        members[place.long()] = torch.arange(NUM_TOKENS, dtype=torch.int32)
        tables |= {"members": members.view(NUM_WINDOWS, length), "slots": place}
    else:
        perm = shuffled(length)
        tables |= {"perm": perm, "inv_perm": perm.argsort().to(torch.int32)}
    num_keys = TILE * num_tiles
    if pattern.ranked:
        sequences = BATCH * (NUM_WINDOWS if pattern.windowed else 1)
        ranking = torch.stack([shuffled(length) for _ in range(sequences * NUM_HEADS)])
        ranking = ranking.view(sequences, NUM_HEADS, length)
        tables["keys"] = ranking[..., :num_keys]
        if pattern.own_tile:
            tables["tiles"] = ranking.unflatten(2, (-1, TILE))
            tables["tile_in_stripe"] = (torch.arange(length) < num_keys).to(torch.int32).view(-1, TILE)
    elif not pattern.dense:
        tables["keys"] = shuffled(length)[:num_keys]
        if pattern.own_tile:  # not the order of the stripe: tiles are partly in it
            tables["tiles"] = shuffled(length).view(-1, TILE)
            tables["tile_in_stripe"] = torch.isin(tables["tiles"], tables["keys"]).to(torch.int32)
    rel_pos = [random(2 * size - 1, head_dim) / head_dim**0.5 for _ in "hw"]
    return Case(random(BATCH, NUM_TOKENS, 3 * channels), random(3 * channels), *rel_pos, Stripe(**tables))


def masked_attention(case: Case, num_heads: int = NUM_HEADS) -> Tensor:
    """Softmax over an explicit mask, one sequence and one head at a time, in float64."""
    qkv, padding, rel_pos_h, rel_pos_w = (tensor.double() for tensor in case.tensors())
    stripe, (num_images, num_tokens, channels) = case.stripe, (*qkv.shape[:2], qkv.shape[2] // 3)
    head_dim, size = channels // num_heads, stripe.rel_index.shape[0]
    windows = [torch.arange(num_tokens)] if stripe.members is None else list(stripe.members.long())
    out = torch.full((num_images, num_tokens, channels), float("nan"), dtype=torch.float64)
    for image in range(num_images):
        stream = torch.cat((qkv[image], padding[None]))
        for window, tokens in enumerate(windows):
            for head in range(num_heads):
                channel = slice(head * head_dim, (head + 1) * head_dim)
                q, k, v = (part[:, channel] for part in stream[tokens].split(channels, 1))
                raster = torch.arange(len(tokens)) if stripe.perm is None else stripe.perm.long()
                row, col = raster // size, raster % size
                bias = (q @ rel_pos_h.T).gather(1, row[:, None] - row[None, :] + size - 1)
                bias += (q @ rel_pos_w.T).gather(1, col[:, None] - col[None, :] + size - 1)
                allowed = _mask(stripe, image * len(windows) + window, head, len(tokens))
                scores = (q @ k.T / head_dim**0.5 + bias).masked_fill(~allowed, float("-inf"))
                real = tokens < num_tokens
                out[image, tokens[real], channel] = (scores.softmax(1) @ v)[real]
    return out


def _mask(stripe: Stripe, sequence: int, head: int, length: int) -> Tensor:
    if stripe.keys is None:
        return torch.ones(length, length, dtype=torch.bool)
    mask = torch.zeros(length, length, dtype=torch.bool)
    mask[:, (stripe.keys if stripe.keys.dim() == 1 else stripe.keys[sequence, head]).long()] = True
    if stripe.tiles is not None:
        for tile in (stripe.tiles if stripe.tiles.dim() == 2 else stripe.tiles[sequence, head]).long():
            mask[tile[:, None], tile[None, :]] = True
    return mask


@pytest.mark.parametrize("dtype", DTYPES)
@head_dims
@node_types
def test_reference_is_masked_attention(pattern: Pattern, head_dim: int, dtype: str):
    case = make_case(pattern, head_dim, DTYPES[dtype])
    out = case.run()
    assert out.dtype == DTYPES[dtype]
    assert relative_error(out, masked_attention(case)) <= REFERENCE_TOLERANCE[dtype]


@head_dims
@pytest.mark.parametrize("pattern", [p for p in PATTERNS if not p.own_tile], ids=lambda pattern: pattern.node_type)
def test_fused_attention_is_the_reference(pattern: Pattern, head_dim: int):
    case = make_case(pattern, head_dim, torch.float32)
    found = stripe_attention(*case.tensors(), case.stripe, NUM_HEADS, "sdpa")
    assert relative_error(found, case.run()) <= REFERENCE_TOLERANCE["fp32"]


@pytest.mark.parametrize("pattern", (INTERLEAVED, RANKED), ids=lambda pattern: pattern.node_type)
def test_fused_attention_refuses_own_tiles(pattern: Pattern):
    case = make_case(pattern, 32, torch.float32)
    with pytest.raises(InvalidInput, match=r"'interleaved' and 'ranked'.*use order 'lattice', or backend 'reference'"):
        stripe_attention(*case.tensors(), case.stripe, NUM_HEADS, "sdpa")


def test_fused_attention_refuses_more_channels_than_it_takes():
    case = make_case(STATIC, 240, torch.float32)
    with pytest.raises(
        InvalidInput, match=r"head_dim 240 and 16 \+ 16 grid rows and columns make 272 .*use backend 'reference'"
    ):
        stripe_attention(*case.tensors(), case.stripe, NUM_HEADS, "sdpa")


@pytest.mark.parametrize("num_tiles", (1, 4), ids="tiles-{}".format)
@pytest.mark.parametrize("pattern", (STATIC, INTERLEAVED, RANKED), ids=lambda pattern: pattern.node_type)
def test_one_tile_and_all_tiles(pattern: Pattern, num_tiles: int):
    case = make_case(pattern, 32, torch.float32, num_tiles)
    assert relative_error(case.run(), masked_attention(case)) <= REFERENCE_TOLERANCE["fp32"]


@pytest.mark.parametrize("pattern", (STATIC, INTERLEAVED, RANKED), ids=lambda pattern: pattern.node_type)
def test_stripe_of_all_keys_is_dense(pattern: Pattern):
    case = make_case(pattern, 32, torch.float32, num_tiles=4)
    tables = {name: getattr(case.stripe, name) for name in ("rel_index", "perm", "inv_perm")}
    dense = stripe_attention(*case.tensors(), Stripe(**tables), NUM_HEADS)
    assert relative_error(case.run(), dense) <= REFERENCE_TOLERANCE["fp32"]


@pytest.mark.parametrize("dtype", BODY_TOLERANCE)
@head_dims
@node_types
def test_body_is_the_reference(pattern: Pattern, head_dim: int, dtype: str):
    case = make_case(pattern, head_dim, DTYPES[dtype])
    assert relative_error(case.run_body(pattern), case.run()) <= BODY_TOLERANCE[dtype]


@pytest.mark.parametrize("num_offsets", (1, 2, 3, 4, 5, 8, 9, 16, 17, 26, 32, 33, 64), ids="offsets-{}".format)
def test_a_lattice_is_the_reference_in_body_and_fused_attention(num_offsets: int):
    """Both make position terms for its own rows and columns alone; which these are follows from the offsets."""
    case = make_case(STATIC, 32, torch.float32)
    perm, inv_perm = (torch.tensor(table) for table in (order.z_order(GRID), order.inverse(order.z_order(GRID))))
    keys = torch.tensor(order.lattice_sequence(NUM_TOKENS)[: num_offsets * NUM_TOKENS // TILE])
    stripe = replace(case.stripe, perm=perm, inv_perm=inv_perm, keys=keys, lattice_offsets=num_offsets)
    case = replace(case, stripe=stripe)
    assert relative_error(case.run_body(STATIC), case.run()) <= BODY_TOLERANCE["fp32"]
    fused = stripe_attention(*case.tensors(), case.stripe, NUM_HEADS, "sdpa")
    assert relative_error(fused, case.run()) <= REFERENCE_TOLERANCE["fp32"]


@pytest.mark.parametrize("pattern", (STATIC, DENSE, INTERLEAVED, RANKED), ids=lambda pattern: pattern.node_type)
def test_large_scores_stay_finite_in_fp16(pattern: Pattern):
    """Scores beyond what exp takes, and a bias as large: both softmaxes are of differences from the maximum."""
    case = make_case(pattern, 64, torch.float16)
    case.qkv.mul_(8)
    assert relative_error(case.run_body(pattern), masked_attention(case)) <= 0.05
    assert relative_error(case.run(), masked_attention(case)) <= REFERENCE_TOLERANCE["fp16"]


@node_types
def test_operator_is_well_formed(pattern: Pattern):
    case = make_case(pattern, 32, torch.float32)
    names = ("rel_index", "perm", "inv_perm", "keys", "tiles", "tile_in_stripe", "members", "slots")
    arguments = (*case.tensors(), *(getattr(case.stripe, name) for name in names), NUM_HEADS)
    torch.library.opcheck(
        torch.ops.sparsesam.stripe_attention, arguments, test_utils=("test_schema", "test_faketensor")
    )


@node_types
def test_body_declares_what_the_node_carries(pattern: Pattern):
    body = FUNCTIONS[pattern.node_type]
    assert set(body.attribute) == {*ATTRIBUTES, "plugin_namespace", "plugin_version"}
    assert [name.removeprefix(f"{pattern.node_type}_") for name in body.input] == list(pattern.inputs)
    inner = {name for node in body.node for name in node.output} | set(body.input)
    assert all(name.startswith(f"{pattern.node_type}_") for name in inner)
