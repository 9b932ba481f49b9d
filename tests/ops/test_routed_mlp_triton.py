"""The Triton kernels of the routed MLP: against float64 mathematics, and against the reference's choice of groups."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsesam_deploy.errors import InvalidInput
from sparsesam_deploy.ops.launch import SETTINGS_VARIABLE
from sparsesam_deploy.ops.routed_mlp import Route, group_sobel, group_variance, reference
from sparsesam_deploy.ops.routed_mlp import triton as kernels
from sparsesam_deploy.ops.routed_mlp.kernels.quadtree import _quadtree_score_kernel
from sparsesam_deploy.ops.routed_mlp.onnx import Pack
from tests.comparison import relative_error
from tests.ops import test_routed_mlp as cases
from tests.ops.kernels import DEVICE, KERNEL_TOLERANCE, launch_in_blocks
from tests.ops.nodes import DTYPES
from tests.ops.test_routed_mlp import (
    BATCH,
    EPSILON,
    NUM_ALL,
    NUM_TOKENS,
    by_group,
    make_route,
    make_stream,
    merges,
    packs,
)
from tests.oracle import z_curve

pytest.importorskip("triton")

GUARD = 64
SEED = {"sobel": 105}
"""Of 4096 tokens whose scores are far enough apart; 64 for all others."""
groups = pytest.mark.parametrize("pack", by_group, ids=lambda pack: pack.node_type)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch) -> Iterator[None]:
    """What torch.empty gives is NaN, or no row at all, between guards that must stay so."""
    given = []

    def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        size, poison = torch.Size(shape).numel(), float("nan") if dtype.is_floating_point else -7
        memory = torch.full((size + 2 * GUARD,), poison, dtype=dtype, device=device)
        given.append((memory, size, memory[:GUARD].clone()))
        return memory[GUARD : GUARD + size].view(shape)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        yield
    for memory, size, guard in given:
        for found in (memory[:GUARD], memory[GUARD + size :]):
            torch.testing.assert_close(found, guard, rtol=0, atol=0, equal_nan=True, msg="a kernel wrote out of bounds")


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch, tmp_path) -> None:
    launch_in_blocks(monkeypatch, tmp_path, 64)


def on_device(route: Route) -> Route:
    return Route(**{name: x.to(DEVICE) if isinstance(x, Tensor) else x for name, x in vars(route).items()})


def pack_rows(x: Tensor, weight: Tensor, bias: Tensor, route: Route) -> tuple[Tensor, Tensor]:
    """rows and row_of_token by the kernels, on the CPU again."""
    stream = (tensor.to(DEVICE) for tensor in (x, weight, bias))
    rows, row_of_token = kernels.routed_mlp_pack(*stream, EPSILON, on_device(route))
    return rows.cpu(), row_of_token.cpu()


def unpack_rows(*arguments: Tensor) -> Tensor:
    return kernels.routed_mlp_unpack(*(tensor.to(DEVICE) for tensor in arguments)).cpu()


def assert_same_rows(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """The same choice exactly, the same rows within rounding, and NaN in the same places."""
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[0].isnan(), expected[0].isnan())
    rows, expected_rows = (rows.nan_to_num(0.0) for rows in (found[0], expected[0]))
    assert rows.shape == expected_rows.shape
    tolerance = {dtype: KERNEL_TOLERANCE[name] for name, dtype in DTYPES.items()}[found[0].dtype]
    assert not rows.numel() or relative_error(rows, expected_rows) <= tolerance


@pytest.mark.parametrize(
    ("dtype", "channels"), [*((dtype, channels) for dtype in DTYPES for channels in (48, 192)), ("fp16", 1280)]
)
@packs
def test_every_token_gets_its_update(pack: Pack, dtype: str, channels: int, monkeypatch):
    """Rows, unpacked, against float64, and the choice of groups against the reference."""
    monkeypatch.setattr(cases, "CHANNELS", channels)
    stream, route = make_stream(DTYPES[dtype]), make_route(pack)
    rows, row_of_token = pack_rows(*stream, route)
    out = unpack_rows(stream[0], rows, row_of_token)
    assert (rows.dtype, row_of_token.dtype, out.dtype) == (DTYPES[dtype], torch.int32, DTYPES[dtype])
    update = cases.expected_updates(*stream, route)
    assert relative_error(out, stream[0].double() + update) <= KERNEL_TOLERANCE[dtype]
    received = unpack_rows(torch.zeros_like(stream[0]), rows, row_of_token)  # without the stream, which is larger
    assert relative_error(received, update) <= KERNEL_TOLERANCE[dtype]
    assert torch.equal(row_of_token, reference.routed_mlp_pack(*stream, EPSILON, route)[1])


@pytest.mark.parametrize("num_groups", (0, 1, NUM_ALL - 1, NUM_ALL), ids="groups-{}".format)
@groups
def test_from_none_to_all_groups(pack: Pack, num_groups: int):
    stream, route = make_stream(), make_route(pack, num_groups)
    rows, row_of_token = pack_rows(*stream, route)
    assert_same_rows((rows, row_of_token), reference.routed_mlp_pack(*stream, EPSILON, route))
    expected = stream[0].double() + cases.expected_updates(*stream, route)
    assert relative_error(unpack_rows(stream[0], rows, row_of_token), expected) <= KERNEL_TOLERANCE["fp32"]


@pytest.mark.parametrize("block", (8, 64), ids="block-{}".format)
@groups
def test_ties_go_to_the_lower_index(pack: Pack, block: int, monkeypatch, tmp_path):
    """Three kinds of squares, equal within a kind and mixed over the image, wherever programs begin."""
    launch_in_blocks(monkeypatch, tmp_path, block)
    _, weight, bias = make_stream()
    kind = torch.randint(3, (1, NUM_ALL // 4), generator=torch.Generator().manual_seed(3)).repeat_interleave(4, 1)
    x = torch.zeros(1, NUM_ALL, 4, cases.CHANNELS)
    x[:, :, 0, ::2] = kind[..., None].float()
    if pack.selection == "sobel":  # neighbours count: an image of equal values has equal scores but at its border
        x = torch.ones_like(x)
    x = x.flatten(1, 2)
    route = make_route(pack, 40)
    found = pack_rows(x, weight, bias, route)
    assert_same_rows(found, reference.routed_mlp_pack(x, weight, bias, EPSILON, route))
    if pack.selection == "variance":
        ranked = sorted(range(NUM_ALL), key=lambda cell: (-kind[0, cell].item(), cell))
        assert found[1][0, ::4].argsort(stable=True)[:40].tolist() == ranked[:40]


@groups
def test_choice_among_4096_tokens(pack: Pack):
    """The real grid: every group and square in the reference's place, among scores that float32 tells apart."""
    channels, perm = 16, z_curve(64)
    tables = {"perm": perm, "inv_perm": perm.argsort()}
    generator = torch.Generator().manual_seed(SEED.get(pack.selection, 64))
    strength = torch.randn(1, 1024, 1, 1, generator=generator).exp()
    x = (strength * torch.randn(1, 1024, 4, channels, generator=generator)).flatten(1, 2)
    x += 3 * torch.randn(1, 1, channels, generator=generator)
    weight, bias = torch.ones(channels), torch.zeros(channels)
    if pack.selection == "sobel":
        levels = [group_sobel(x, tables["perm"], tables["inv_perm"])[0].double()]
    else:
        y = F.layer_norm(x.double(), (channels,), eps=EPSILON)
        levels = [group_variance(y, size)[0] for size in (4, 16)]
    for scores in levels:
        scores = scores.sort().values
        assert ((scores[1:] - scores[:-1]) / scores[1:]).min() > 4e-6
    num_merged = 128 if merges(pack) else 0
    route = Route(pack.selection, share=True, num_groups=300, num_merged=num_merged, **tables)
    assert_same_rows(pack_rows(x, weight, bias, route), reference.routed_mlp_pack(x, weight, bias, EPSILON, route))


@pytest.mark.parametrize(("num_groups", "num_merged"), ((0, 0), (20, 0), (20, 1), (1, 15), (4, 15), (0, 16)))
def test_quadtree_counts(num_groups: int, num_merged: int):
    """Nothing merged, which is share-variance, everything merged, and no flat group left."""
    stream, route = make_stream(), Route("quadtree", True, num_groups, num_merged)
    rows, row_of_token = pack_rows(*stream, route)
    assert_same_rows((rows, row_of_token), reference.routed_mlp_pack(*stream, EPSILON, route))
    received = unpack_rows(torch.zeros_like(stream[0]), rows, row_of_token)
    assert relative_error(received, cases.expected_updates(*stream, route)) <= KERNEL_TOLERANCE["fp32"]
    if not num_merged:
        variance = pack_rows(*stream, Route("variance", True, num_groups))
        assert torch.equal(rows, variance[0]) and torch.equal(row_of_token, variance[1])


def test_scores_of_squares():
    """Against float64, 20 squares in programs of 8; exactly 0 where all rows are equal, of any value."""
    generator = torch.Generator().manual_seed(4)
    x = 100 + torch.randn(1, 20, 16, 48, generator=generator) * torch.logspace(-1, 1, 20)[:, None, None]
    equal = torch.tensor([3, 17])
    x[:, equal] = torch.randn(1, 2, 1, 48, generator=generator)
    x, weight, bias = x.flatten(1, 2), *torch.randn(2, 48, generator=generator)
    expected = group_variance(F.layer_norm(x.double(), (48,), weight.double(), bias.double(), EPSILON), 16)
    found = torch.full((1, 80), float("nan"), device=DEVICE), torch.full((1, 20), float("nan"), device=DEVICE)
    stream = (tensor.to(DEVICE) for tensor in (x, weight, bias))
    _quadtree_score_kernel[(3, 1)](*stream, EPSILON, *found, 20, CHANNELS=48, WIDTH=64, BLOCK=8)
    groups, squares = (scores.cpu() for scores in found)
    assert torch.equal(squares[:, equal], torch.zeros(1, 2)) and not groups.unflatten(1, (20, 4))[:, equal].any()
    others = [square for square in range(20) if square not in equal]
    torch.testing.assert_close(squares[:, others].double(), expected[:, others], rtol=1e-4, atol=0)


@pytest.mark.parametrize("num_groups", (0, 20), ids="groups-{}".format)
@groups
def test_nan_stays_in_its_token(pack: Pack, num_groups: int):
    """A NaN reaches its own token, or in a flat group the four that share its row, and no rank is lost to it."""
    stream, route = make_stream(), make_route(pack, num_groups)
    token = 4 * 37 + 2
    stream[0][0, token, 5] = float("nan")
    rows, row_of_token = pack_rows(*stream, route)
    assert_same_rows((rows, row_of_token), reference.routed_mlp_pack(*stream, EPSILON, route))
    out = unpack_rows(stream[0], rows, row_of_token)
    poisoned = [token] if num_groups or not pack.share else [148, 149, 150, 151]
    assert out.isnan().any(2).nonzero().tolist() == [[0, index] for index in poisoned]


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("value", (float("nan"), float("inf"), -0.0), ids=str)
@groups
def test_ranks_are_a_permutation_whatever_the_scores(pack: Pack, value: float):
    """Nothing is left unwritten when every score is NaN, or some are infinite."""
    stream, route = make_stream(), make_route(pack)
    stream[0][:, 60:200] = value
    stream[0][1] = value
    found = pack_rows(*stream, route)
    assert torch.equal(found[1], reference.routed_mlp_pack(*stream, EPSILON, route)[1])
    assert found[1].min() >= 0


@pytest.mark.parametrize("dtype", ("fp32", "fp16"))
@groups
def test_large_offset_and_constant_rows(pack: Pack, dtype: str):
    """Statistics of values near 3e4: centred first, and exactly zero for a token whose channels are all equal."""
    x, weight, bias = make_stream(DTYPES[dtype])
    x = (3e4 + 150 * x.float()).to(DTYPES[dtype])
    constant = torch.arange(40, 60)
    x[:, constant] = 3e4
    stream, route = (x, weight, bias), make_route(pack, NUM_ALL)
    rows, row_of_token = pack_rows(*stream, route)
    expected = cases.expected_updates(*stream, route)
    received = unpack_rows(torch.zeros_like(x), rows, row_of_token)
    # 1 unit in the last place of a mean of 3e4 is 2e-3, of values whose deviation is a few hundred: 1e-5 of a row
    assert relative_error(received, expected) <= {"fp32": 1e-4, "fp16": KERNEL_TOLERANCE["fp16"]}[dtype]
    assert torch.equal(received[:, constant], bias.expand(BATCH, len(constant), -1))
    fewer = make_route(pack, 20)
    assert_same_rows(pack_rows(*stream, fewer), reference.routed_mlp_pack(*stream, EPSILON, fewer))


@pytest.mark.parametrize("block", (16, 64), ids="block-{}".format)
def test_blocks_that_do_not_divide(block: int, monkeypatch, tmp_path):
    """65 groups, 37 kept rows and 260 tokens, or 17 squares; each image of the batch is its own."""
    launch_in_blocks(monkeypatch, tmp_path, block)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(2, 272, 24, generator=generator)
    weight, bias = torch.randn(2, 24, generator=generator)
    keep = torch.stack([torch.randperm(260, generator=generator)[:37] for _ in range(2)])
    for num_tokens, route in (
        (260, Route("variance", True, 13)),
        (260, Route("variance", False, 13)),
        (260, Route("given", False, keep_indices=keep)),
        (272, Route("quadtree", True, 13, 5)),
    ):
        x = tokens[:, :num_tokens].contiguous()
        found = pack_rows(x, weight, bias, route)
        expected = reference.routed_mlp_pack(x, weight, bias, EPSILON, route)
        assert_same_rows(found, expected)
        out = unpack_rows(x, *found)
        assert relative_error(out, reference.routed_mlp_unpack(x, *expected)) <= KERNEL_TOLERANCE["fp32"]


@pytest.mark.parametrize("dtype", (torch.int32, torch.int64), ids=str)
@pytest.mark.parametrize("images", (1, BATCH), ids="images-{}".format)
def test_given_indices(images: int, dtype: torch.dtype):
    """Also those that are part of a larger tensor, as a ranking's are."""
    stream = make_stream()
    keep = torch.stack([torch.arange(0, 60), torch.arange(255, 195, -1)])[:images, :50].to(dtype)
    route = Route("given", share=False, keep_indices=keep)
    assert_same_rows(pack_rows(*stream, route), reference.routed_mlp_pack(*stream, EPSILON, route))


@pytest.mark.parametrize("selection", ("variance", "given"))
def test_norm_in_another_dtype(selection: str):
    """As under autocast: a float16 stream, float32 parameters."""
    x, weight, bias = make_stream()
    stream = (x.half(), weight, bias)
    route = make_route(Pack(selection, selection != "given"))
    assert_same_rows(pack_rows(*stream, route), reference.routed_mlp_pack(*stream, EPSILON, route))


def test_unpack_touches_only_its_own_tokens():
    x, *_ = make_stream()
    update = torch.full((BATCH, 2, x.shape[2]), float("nan"))
    row_of_token = torch.full((BATCH, NUM_TOKENS), 2, dtype=torch.int32)
    row_of_token[0, 7], row_of_token[1, 9] = 0, 1
    out = unpack_rows(x, update, row_of_token)
    poisoned = out.isnan().all(2)
    assert poisoned.nonzero().tolist() == [[0, 7], [1, 9]]
    assert torch.equal(out[~poisoned], x[~poisoned])


@packs
def test_launch_settings_as_shipped(pack: Pack, monkeypatch):
    """Of three squares, because of the interpreter; the image of a Sobel score is one."""
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)
    x, weight, bias = make_stream()
    stream = (x[:, : 16 if pack.selection == "sobel" else 48].contiguous(), weight, bias)
    perm = z_curve(4)
    tables = {"perm": perm, "inv_perm": perm.argsort()} if pack.selection == "sobel" else {}
    keep = torch.arange(3, 12)[None] if pack.selection == "given" else None
    route = Route(pack.selection, pack.share, 2, 2 if merges(pack) else 0, keep_indices=keep, **tables)
    found, expected = pack_rows(*stream, route), reference.routed_mlp_pack(*stream, EPSILON, route)
    assert_same_rows(found, expected)
    out = unpack_rows(stream[0], *found)
    assert relative_error(out, reference.routed_mlp_unpack(stream[0], *expected)) <= KERNEL_TOLERANCE["fp32"]


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"x": lambda x: x.transpose(0, 1)}, "x has shape .* strides .*contiguous"),
        ({"x": lambda x: x[:, :250].contiguous()}, "250 tokens"),
        ({"weight": lambda weight: weight[:-1]}, "weight has shape .47,."),
        ({"bias": lambda bias: bias[::2].repeat_interleave(2)[None]}, "bias has shape .1, 48."),
        ({"num_groups": lambda _: NUM_ALL + 1}, "num_groups 65"),
        ({"num_groups": lambda _: -1}, "num_groups -1"),
        ({"num_merged": lambda _: 1}, "num_merged 1 .* between 0 and 0"),
        ({"selection": lambda _: "quadtree", "x": lambda x: x[:, :252].contiguous()}, "252 tokens .*multiple of 16"),
        ({"selection": lambda _: "quadtree", "num_merged": lambda _: 15}, "num_merged 15 .* between 0 and 14"),
        ({"selection": lambda _: "quadtree", "num_merged": lambda _: -1}, "num_merged -1"),
        ({"selection": lambda _: "quadtree", "num_groups": lambda _: 70}, "num_groups 70"),
    ),
    ids=(
        *("strided", "tokens", "weight", "bias", "groups", "negative"),
        *("merged", "quadtree-tokens", "quadtree-merged", "quadtree-negative", "quadtree-groups"),
    ),
)
def test_what_kernels_cannot_read_is_refused(change: dict, message: str):
    values = dict(zip(("x", "weight", "bias"), make_stream(), strict=True))
    values |= {"selection": "variance", "num_groups": 5, "num_merged": 0}
    values |= {name: edit(values[name]) for name, edit in change.items()}
    *stream, selection, num_groups, num_merged = values.values()
    with pytest.raises(InvalidInput, match=message):
        pack_rows(*stream, Route(selection, True, num_groups, num_merged))


@pytest.mark.parametrize("name", ("update", "row_of_token"))
def test_unpack_refuses_another_batch(name: str):
    values = {"update": torch.zeros(BATCH, 5, 48), "row_of_token": torch.zeros(BATCH, NUM_TOKENS, dtype=torch.int32)}
    values[name] = values[name][:1]
    with pytest.raises(InvalidInput, match=f"{name} has shape"):
        unpack_rows(make_stream()[0], *values.values())
