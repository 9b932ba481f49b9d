"""The Triton kernels of the routed MLP: against float64 mathematics, and against the reference's choice of groups."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsesam_deploy.errors import InvalidInput
from sparsesam_deploy.ops.launch import SETTINGS_VARIABLE
from sparsesam_deploy.ops.routed_mlp import Route, group_sobel, group_variance, reference, routed_mlp_pack
from sparsesam_deploy.ops.routed_mlp import triton as kernels
from sparsesam_deploy.ops.routed_mlp.onnx import PACKS, Pack
from tests.ops import test_routed_mlp as cases
from tests.ops.kernels import DEVICE, KERNEL_TOLERANCE, launch_in_blocks
from tests.ops.nodes import DTYPES, relative_error
from tests.ops.test_routed_mlp import BATCH, EPSILON, NUM_ALL, NUM_TOKENS, make_route, make_stream
from tests.oracle import z_curve

pytest.importorskip("triton")

GUARD = 64
SEED = {"variance": 64, "sobel": 105}
"""Of 4096 tokens whose scores are far enough apart."""
QUADTREE = Pack("quadtree", True)
packs = pytest.mark.parametrize("pack", [pack for pack in PACKS if pack != QUADTREE], ids=lambda pack: pack.node_type)
groups = pytest.mark.parametrize(
    "pack", [pack for pack in PACKS if pack not in (QUADTREE, Pack("given", False))], ids=lambda pack: pack.node_type
)


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
    """Three kinds of cells, of equal scores within a kind and mixed over the image, wherever programs begin."""
    launch_in_blocks(monkeypatch, tmp_path, block)
    _, weight, bias = make_stream()
    kind = torch.randint(3, (1, NUM_ALL), generator=torch.Generator().manual_seed(3))
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


@pytest.mark.parametrize("selection", ("variance", "sobel"))
def test_choice_among_4096_tokens(selection: str):
    """The real grid: every group in the reference's place, among scores that float32 tells apart."""
    channels, perm = 16, z_curve(64)
    tables = {"perm": perm, "inv_perm": perm.argsort()}
    generator = torch.Generator().manual_seed(SEED[selection])
    strength = torch.randn(1, 1024, 1, 1, generator=generator).exp()
    x = (strength * torch.randn(1, 1024, 4, channels, generator=generator)).flatten(1, 2)
    x += 3 * torch.randn(1, 1, channels, generator=generator)
    weight, bias = torch.ones(channels), torch.zeros(channels)
    if selection == "variance":
        scores = group_variance(F.layer_norm(x.double(), (channels,), eps=EPSILON))[0]
    else:
        scores = group_sobel(x, tables["perm"], tables["inv_perm"])[0].double()
    scores = scores.sort().values
    assert ((scores[1:] - scores[:-1]) / scores[1:]).min() > 4e-6
    route = Route(selection, share=True, num_groups=300, **tables)
    assert_same_rows(pack_rows(x, weight, bias, route), reference.routed_mlp_pack(x, weight, bias, EPSILON, route))


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
    """65 groups, 37 kept rows and 260 tokens; each image of the batch is its own."""
    launch_in_blocks(monkeypatch, tmp_path, block)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 260, 24, generator=generator)
    weight, bias = torch.randn(2, 24, generator=generator)
    keep = torch.stack([torch.randperm(260, generator=generator)[:37] for _ in range(2)])
    for route in (Route("variance", True, 13), Route("variance", False, 13), Route("given", False, keep_indices=keep)):
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
    """Of few tokens, because of the interpreter."""
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)
    x, weight, bias = make_stream()
    stream = (x[:, :16].contiguous(), weight, bias)
    perm = z_curve(4)
    tables = {"perm": perm, "inv_perm": perm.argsort()} if pack.selection == "sobel" else {}
    keep = torch.arange(3, 12)[None] if pack.selection == "given" else None
    route = Route(pack.selection, pack.share, 2, keep_indices=keep, **tables)
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
    ),
    ids=("strided", "tokens", "weight", "bias", "groups", "negative"),
)
def test_what_kernels_cannot_read_is_refused(change: dict, message: str):
    values = dict(zip(("x", "weight", "bias"), make_stream(), strict=True)) | {"num_groups": 5}
    values |= {name: edit(values[name]) for name, edit in change.items()}
    *stream, num_groups = values.values()
    with pytest.raises(InvalidInput, match=message):
        pack_rows(*stream, Route("variance", True, num_groups))


def test_a_selection_without_kernels_is_refused():
    with pytest.raises(InvalidInput, match="share-quadtree has no Triton kernels"):
        routed_mlp_pack(*make_stream(), EPSILON, make_route(QUADTREE), backend="triton")


@pytest.mark.parametrize("name", ("update", "row_of_token"))
def test_unpack_refuses_another_batch(name: str):
    values = {"update": torch.zeros(BATCH, 5, 48), "row_of_token": torch.zeros(BATCH, NUM_TOKENS, dtype=torch.int32)}
    values[name] = values[name][:1]
    with pytest.raises(InvalidInput, match=f"{name} has shape"):
        unpack_rows(make_stream()[0], *values.values())
