"""Packing and unpacking of a routed MLP: every token's update accounted for, and the bodies equal to the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsesam_deploy.ops.routed_mlp import Route, routed_mlp_pack, routed_mlp_unpack
from sparsesam_deploy.ops.routed_mlp.onnx import PACKS, UNPACK, Pack
from sparsesam_deploy.ops.routing import rule_of
from tests.comparison import relative_error
from tests.ops.nodes import BODY_TOLERANCE, DTYPES, FUNCTIONS, REFERENCE_TOLERANCE, run_node

BATCH, GRID, CHANNELS, EPSILON = 2, 16, 48, 1e-6
NUM_TOKENS, NUM_ALL = GRID**2, GRID**2 // 4
by_group = tuple(pack for pack in PACKS if pack.selection != "given")
packs = pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.node_type)


def make_stream(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight, bias; cells differ in how varied they are, so that their scores are far apart."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randn(BATCH, NUM_ALL, 1, CHANNELS, generator=generator)
    strength = 0.05 * 1.1 ** torch.stack([torch.randperm(NUM_ALL, generator=generator) for _ in range(BATCH)])
    noise = torch.randn(BATCH, NUM_ALL, 4, CHANNELS, generator=generator)
    x = 2 * cells + strength[..., None, None] * noise
    weight, bias = 1 + 0.1 * torch.randn(2, CHANNELS, generator=generator)
    return x.flatten(1, 2).to(dtype), weight.to(dtype), (bias - 1).to(dtype)


def z_order() -> Tensor:
    """Raster index of each token: Morton codes, row bit above column bit, written out."""
    codes = [
        sum((t // GRID >> b & 1) << (2 * b + 1) | (t % GRID >> b & 1) << (2 * b) for b in range(4)) for t in range(256)
    ]
    return torch.tensor(codes).argsort().to(torch.int32)


def merges(pack: Pack) -> bool:
    return rule_of(pack.selection).counts(0.4, 4096).num_merged > 0


def make_route(pack: Pack, num_groups: int = 20) -> Route:
    if pack.selection == "given":
        indices = torch.randperm(NUM_TOKENS, generator=torch.Generator().manual_seed(1))[: 4 * num_groups]
        return Route("given", share=False, keep_indices=indices[None].to(torch.int32))
    perm = z_order()
    tables = {"perm": perm, "inv_perm": perm.argsort().to(torch.int32)} if pack.selection == "sobel" else {}
    num_merged = min(7, (NUM_ALL - num_groups) // 4) if merges(pack) else 0
    return Route(pack.selection, pack.share, num_groups, num_merged, **tables)


def sobel_scores(x: Tensor) -> Tensor:
    """Gradient magnitude by a convolution with the two kernels, averaged over each cell: (B, groups)."""
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=torch.float64)
    perm = z_order().long()
    raster = torch.empty_like(x, dtype=torch.float64)
    raster[:, perm] = x.double()
    image = raster.transpose(1, 2).reshape(-1, 1, GRID, GRID)
    gradients = F.conv2d(image, torch.stack((kernel, kernel.T))[:, None], padding=1)
    energy = gradients.square().sum(1).view(BATCH, CHANNELS, NUM_TOKENS).mean(1).sqrt()
    return energy[:, perm].view(BATCH, NUM_ALL, 4).mean(2)


def quadtree_updates(y: np.ndarray, num_groups: int, num_merged: int) -> np.ndarray:
    """What the tokens of one image (N, C) receive, square by square and cell by cell on the raster grid."""
    perm = z_order().numpy()
    image = np.empty((GRID, GRID, y.shape[1]))
    image.reshape(NUM_TOKENS, -1)[perm] = y
    out = image.copy()

    def part(of: np.ndarray, at: tuple[int, int], side: int) -> np.ndarray:
        return of[at[0] : at[0] + side, at[1] : at[1] + side]

    def spread(at: tuple[int, int], side: int) -> float:
        return ((part(image, at, side) - part(image, at, side).mean((0, 1))) ** 2).sum()

    def corners(side: int) -> list[tuple[int, int]]:
        return [(row, col) for row in range(0, GRID, side) for col in range(0, GRID, side)]

    merged = sorted(corners(4), key=lambda at: spread(at, 4))[:num_merged]
    unmerged = [(row, col) for row, col in corners(2) if (row - row % 4, col - col % 4) not in merged]
    flat = sorted(unmerged, key=lambda at: -spread(at, 2))[num_groups:]
    for side, chosen in ((4, merged), (2, flat)):
        for at in chosen:
            part(out, at, side)[:] = part(image, at, side).mean((0, 1))
    return out.reshape(NUM_TOKENS, -1)[perm]


def expected_updates(x: Tensor, weight: Tensor, bias: Tensor, route: Route) -> Tensor:
    """What each token receives when the MLP is the identity, token by token, in float64: (B, N, C)."""
    y = F.layer_norm(x.double(), (CHANNELS,), weight.double(), bias.double(), EPSILON)
    out = torch.zeros_like(y)
    if route.selection == "given":
        for image, kept in enumerate(route.keep_indices.expand(BATCH, -1).tolist()):
            out[image, kept] = y[image, kept]
        return out
    if route.selection == "quadtree":
        counts = route.num_groups, route.num_merged
        return torch.from_numpy(np.stack([quadtree_updates(image, *counts) for image in y.numpy()]))
    cells = y.view(BATCH, NUM_ALL, 4, CHANNELS)
    mean = cells.mean(2)
    scores = sobel_scores(x) if route.selection == "sobel" else (cells - mean[:, :, None]).square().sum((2, 3))
    for image in range(BATCH):
        ranked = sorted(range(NUM_ALL), key=lambda cell: (-scores[image, cell].item(), cell))
        for cell in range(NUM_ALL):
            rows = slice(4 * cell, 4 * cell + 4)
            if cell in ranked[: route.num_groups]:
                out[image, rows] = y[image, rows]
            elif route.share:
                out[image, rows] = mean[image, cell]
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@packs
def test_every_token_gets_its_update(pack: Pack, dtype: str):
    stream, route = make_stream(DTYPES[dtype]), make_route(pack)
    rows, row_of_token = routed_mlp_pack(*stream, EPSILON, route)
    out = routed_mlp_unpack(stream[0], rows, row_of_token)
    assert (rows.dtype, row_of_token.dtype, out.dtype) == (DTYPES[dtype], torch.int32, DTYPES[dtype])
    assert relative_error(out, stream[0].double() + expected_updates(*stream, route)) <= REFERENCE_TOLERANCE[dtype]


@pytest.mark.parametrize("num_groups", (0, 1, NUM_ALL - 1, NUM_ALL), ids="groups-{}".format)
@pytest.mark.parametrize("pack", by_group, ids=lambda pack: pack.node_type)
def test_from_none_to_all_groups(pack: Pack, num_groups: int):
    stream, route = make_stream(), make_route(pack, num_groups)
    rows, row_of_token = routed_mlp_pack(*stream, EPSILON, route)
    flat = NUM_ALL - num_groups - 4 * route.num_merged
    assert rows.shape == (BATCH, 4 * num_groups + (flat + route.num_merged if pack.share else 0), CHANNELS)
    used = torch.zeros(BATCH, rows.shape[1] + 1, dtype=torch.int64).scatter_add(
        1, row_of_token.long(), torch.ones(BATCH, NUM_TOKENS, dtype=torch.int64)
    )
    shared = [4] * flat + [16] * route.num_merged if pack.share else []
    nobody = 0 if pack.share else 4 * flat
    assert used.tolist() == [[1] * 4 * num_groups + shared + [nobody]] * BATCH
    out = routed_mlp_unpack(stream[0], rows, row_of_token)
    assert relative_error(out, stream[0].double() + expected_updates(*stream, route)) <= REFERENCE_TOLERANCE["fp32"]


@pytest.mark.parametrize("in_body", (False, True), ids=("reference", "body"))
@pytest.mark.parametrize("pack", by_group, ids=lambda pack: pack.node_type)
def test_ties_go_to_the_lower_index(pack: Pack, in_body: bool):
    """Equal cells, then the same with one that is better: it comes first, the others stay in their order."""
    _, weight, bias = make_stream()
    x = torch.zeros(BATCH, NUM_TOKENS, CHANNELS)
    if pack.selection != "sobel":
        x[:, ::4, ::2] = 1.0
    route = make_route(pack, num_groups=5)
    first = []
    for best in (None, 37):
        if best is not None:
            x[:, 4 * best, :7] = 9.0
        rows = (
            _pack(pack, x, weight, bias, route)[1] if in_body else routed_mlp_pack(x, weight, bias, EPSILON, route)[1]
        )
        first.append([rows[0].tolist().index(row) // 4 for row in range(0, 20, 4)])
    if pack.selection != "sobel":
        assert first == [[0, 1, 2, 3, 4], [37, 0, 1, 2, 3]]
    else:  # a bright token also gives its neighbours a gradient
        assert first[0] == [0, 1, 2, 3, 4]
        assert 37 in first[1]


def test_given_indices_of_each_image():
    stream = make_stream()
    indices = torch.stack([torch.arange(0, 40), torch.arange(216, 256)]).to(torch.int32)
    route = Route("given", share=False, keep_indices=indices)
    rows, row_of_token = routed_mlp_pack(*stream, EPSILON, route)
    assert row_of_token[1, 216:].tolist() == list(range(40))
    assert row_of_token[1, :216].unique().tolist() == [40]
    out = routed_mlp_unpack(stream[0], rows, row_of_token)
    assert relative_error(out, stream[0].double() + expected_updates(*stream, route)) <= REFERENCE_TOLERANCE["fp32"]
    assert torch.equal(_pack(Pack("given", False), *stream, route)[1], row_of_token)


def test_unpack_touches_only_its_own_tokens():
    x, *_ = make_stream()
    update = torch.full((BATCH, 2, CHANNELS), float("nan"))
    row_of_token = torch.full((BATCH, NUM_TOKENS), 2, dtype=torch.int32)
    row_of_token[0, 7], row_of_token[1, 9] = 0, 1
    out = routed_mlp_unpack(x, update, row_of_token)
    (body,) = run_node(UNPACK, {"x": x, "update": update, "row_of_token": row_of_token}, {}, {"out": torch.float32})
    for result in (out, body):
        poisoned = result.isnan().all(2)
        assert poisoned.nonzero().tolist() == [[0, 7], [1, 9]]
        assert torch.equal(result[~poisoned], x[~poisoned])


def _pack(pack: Pack, x: Tensor, weight: Tensor, bias: Tensor, route: Route) -> list[Tensor]:
    values = {**vars(route), "x": x, "weight": weight, "bias": bias, "epsilon": EPSILON}
    attributes = {name: values[name] for name in pack.attributes}
    inputs = {name: values[name] for name in pack.inputs}
    return run_node(pack.node_type, inputs, attributes, {"rows": x.dtype, "row_of_token": torch.int32})


@pytest.mark.parametrize("num_groups", (1, 20, NUM_ALL), ids="groups-{}".format)
@pytest.mark.parametrize("dtype", BODY_TOLERANCE)
@packs
def test_pack_body_is_the_reference(pack: Pack, dtype: str, num_groups: int):
    stream, route = make_stream(DTYPES[dtype]), make_route(pack, num_groups)
    expected = routed_mlp_pack(*stream, EPSILON, route)
    rows, row_of_token = _pack(pack, *stream, route)
    assert torch.equal(row_of_token, expected[1])
    assert relative_error(rows, expected[0]) <= REFERENCE_TOLERANCE[dtype]


@pytest.mark.parametrize(("num_groups", "num_merged"), ((0, 0), (64, 0), (20, 1), (1, 15), (3, 15), (4, 15), (0, 16)))
def test_quadtree_counts(num_groups: int, num_merged: int):
    """Nothing merged, everything merged, no flat group left: reference, body and mathematics agree."""
    pack, stream = Pack("quadtree", True), make_stream()
    route = Route("quadtree", True, num_groups, num_merged)
    rows, row_of_token = routed_mlp_pack(*stream, EPSILON, route)
    assert rows.shape[1] == 4 * num_groups + (NUM_ALL - num_groups - 4 * num_merged) + num_merged
    out = routed_mlp_unpack(torch.zeros_like(stream[0]), rows, row_of_token)
    assert relative_error(out, expected_updates(*stream, route)) <= REFERENCE_TOLERANCE["fp32"]
    in_body = _pack(pack, *stream, route)
    assert torch.equal(in_body[1], row_of_token)
    assert relative_error(in_body[0], rows) <= REFERENCE_TOLERANCE["fp32"]
    if not num_merged:
        variance = routed_mlp_pack(*stream, EPSILON, Route("variance", True, num_groups))
        assert torch.equal(rows, variance[0]) and torch.equal(row_of_token, variance[1])


@pytest.mark.parametrize("in_body", (False, True), ids=("reference", "body"))
def test_merged_squares_come_last_by_descending_score(in_body: bool):
    stream, route = make_stream(), make_route(Pack("quadtree", True))
    pack = _pack if in_body else lambda _, *arguments: routed_mlp_pack(*arguments[:3], EPSILON, arguments[3])
    row_of_token = pack(Pack("quadtree", True), *stream, route)[1]
    squares = F.layer_norm(stream[0].double(), (CHANNELS,), *(t.double() for t in stream[1:]), EPSILON)
    squares = squares.view(BATCH, NUM_TOKENS // 16, 16, CHANNELS)
    scores = (squares - squares.mean(2, keepdim=True)).square().sum((2, 3))
    first = 3 * (route.num_groups - route.num_merged) + NUM_ALL - route.num_merged
    for image in range(BATCH):
        rows = row_of_token[image, ::16].tolist()
        merged = sorted((square for square, row in enumerate(rows) if row >= first), key=lambda square: rows[square])
        assert merged == scores[image].argsort(descending=True)[-route.num_merged :].tolist()


@pytest.mark.parametrize("dtype", BODY_TOLERANCE)
@packs
def test_unpack_body_is_the_reference(pack: Pack, dtype: str):
    stream = make_stream(DTYPES[dtype])
    rows, row_of_token = routed_mlp_pack(*stream, EPSILON, make_route(pack))
    inputs = {"x": stream[0], "update": rows, "row_of_token": row_of_token}
    (out,) = run_node(UNPACK, inputs, {}, {"out": DTYPES[dtype]})
    assert torch.equal(out, routed_mlp_unpack(*inputs.values()))


@packs
def test_operators_are_well_formed(pack: Pack):
    stream, route = make_stream(), make_route(pack)
    tables = (route.perm, route.inv_perm, route.keep_indices)
    checks = ("test_schema", "test_faketensor")
    arguments = (*stream, *tables, EPSILON, route.selection, route.share, route.num_groups, route.num_merged)
    torch.library.opcheck(torch.ops.sparsesam.routed_mlp_pack, arguments, test_utils=checks)
    rows, row_of_token = routed_mlp_pack(*stream, EPSILON, route)
    arguments = (stream[0], rows, row_of_token)
    torch.library.opcheck(torch.ops.sparsesam.routed_mlp_unpack, arguments, test_utils=checks)


@packs
def test_body_declares_what_the_node_carries(pack: Pack):
    body = FUNCTIONS[pack.node_type]
    assert set(body.attribute) == {*pack.attributes, "plugin_namespace", "plugin_version"}
    assert [name.removeprefix(f"{pack.node_type}_") for name in body.input] == list(pack.inputs)
    assert all(name.startswith(f"{pack.node_type}_") for node in body.node for name in node.output)
