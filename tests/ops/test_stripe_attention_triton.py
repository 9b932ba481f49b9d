"""The Triton kernels of stripe attention against explicit masks in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from sparsesam_deploy.errors import EnvironmentProblem, InvalidInput
from sparsesam_deploy.ops import triton_language
from sparsesam_deploy.ops.stripe_attention import Stripe, stripe_attention
from sparsesam_deploy.ops.stripe_attention.kernels import lattice
from sparsesam_deploy.ops.stripe_attention.onnx import PATTERNS, Pattern
from tests.comparison import relative_error
from tests.ops.kernels import DEVICE, KERNEL_TOLERANCE, launch_in_blocks
from tests.ops.nodes import DTYPES
from tests.ops.test_stripe_attention import NUM_HEADS, Case, make_case, masked_attention
from tests.oracle import bit_reversed_offsets, morton_code, z_curve

GRID = 32
STATIC, DENSE, INTERLEAVED, RANKED, *WINDOWED = PATTERNS
WINDOWED_DENSE = next(pattern for pattern in WINDOWED if pattern.dense)
HEAD_DIMS = (32, 48, 64, 80, 96, 128)
by_pattern = pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.node_type)


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch, tmp_path):
    launch_in_blocks(monkeypatch, tmp_path, 256)


def run(case: Case, num_heads: int = NUM_HEADS) -> Tensor:
    """The kernels' answer, from tensors on their device, back on the CPU."""
    tables = {
        name: value.to(DEVICE) if isinstance(value, Tensor) else value for name, value in vars(case.stripe).items()
    }
    tensors = [tensor.to(DEVICE) for tensor in case.tensors()]
    return stripe_attention(*tensors, Stripe(**tables), num_heads, backend="triton").cpu()


def lattice_case(num_offsets: int, head_dim: int, dtype: torch.dtype, batch: int = 1, num_heads: int = 1) -> Case:
    """The lattice on a 32x32 grid, its tables made by the oracle."""
    generator = torch.Generator().manual_seed(num_offsets)
    perm = z_curve(GRID).to(torch.int32)
    coordinate = torch.arange(GRID, dtype=torch.int32)
    patches = torch.arange(GRID**2, dtype=torch.int32).view(-1, 64)
    keys = torch.cat([patches[:, offset] for offset in bit_reversed_offsets(num_offsets)])
    stripe = Stripe(
        coordinate[:, None] - coordinate[None, :] + GRID - 1,
        perm,
        perm.argsort().to(torch.int32),
        keys=keys if num_offsets < 64 else None,
        lattice_offsets=num_offsets,
    )

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    width = 3 * num_heads * head_dim
    rel_pos = [random(2 * GRID - 1, head_dim) / head_dim**0.5 for _ in "hw"]
    return Case(random(batch, GRID**2, width), random(width), *rel_pos, stripe)


@by_pattern
def test_any_tables(pattern: Pattern):
    """Random tables, which only the general path and the window kernel accept: nothing relies on an order."""
    case = make_case(pattern, 32, torch.float32)
    assert relative_error(run(case), masked_attention(case)) <= KERNEL_TOLERANCE["fp32"]


@pytest.mark.parametrize(
    ("head_dim", "dtype"), [*((head_dim, "fp16") for head_dim in HEAD_DIMS), (64, "fp32"), (80, "fp32"), (80, "bf16")]
)
def test_lattice_of_every_head_dim_and_dtype(head_dim: int, dtype: str):
    case = lattice_case(18, head_dim, DTYPES[dtype])
    out = run(case, 1)
    assert out.dtype == DTYPES[dtype]
    assert relative_error(out, masked_attention(case, 1)) <= KERNEL_TOLERANCE[dtype]


@pytest.mark.parametrize("pattern", (RANKED, WINDOWED_DENSE), ids=lambda pattern: pattern.node_type)
@pytest.mark.parametrize(("head_dim", "dtype"), [(48, "fp16"), (80, "bf16"), (128, "fp16")])
def test_other_kernels_of_more_head_dims_and_dtypes(head_dim: int, dtype: str, pattern: Pattern):
    case = make_case(pattern, head_dim, DTYPES[dtype])
    assert relative_error(run(case), masked_attention(case)) <= KERNEL_TOLERANCE[dtype]


@pytest.mark.parametrize("num_offsets", (1, 2, 5, 26, 63, 64))
def test_lattice_densities(num_offsets: int):
    case = lattice_case(num_offsets, 32, torch.float32)
    assert relative_error(run(case, 1), masked_attention(case, 1)) <= KERNEL_TOLERANCE["fp32"]


def test_lattice_of_several_images_and_heads():
    case = lattice_case(3, 32, torch.float32, batch=2, num_heads=3)
    assert relative_error(run(case, 3), masked_attention(case, 3)) <= KERNEL_TOLERANCE["fp32"]


@pytest.mark.parametrize("block", (64, 128))
@pytest.mark.parametrize("pattern", (STATIC, WINDOWED_DENSE), ids=lambda pattern: pattern.node_type)
def test_block_size_does_not_matter(pattern: Pattern, block: int, monkeypatch, tmp_path):
    """196 slots of a window fill no block; with 64 the last one has four."""
    launch_in_blocks(monkeypatch, tmp_path, block)
    case = make_case(pattern, 32, torch.float32)
    assert relative_error(run(case), masked_attention(case)) <= KERNEL_TOLERANCE["fp32"]


def test_lattice_positions_on_the_real_grid_exhaustively():
    """Every chunk of the 64x64 grid, by the kernel that runs: which keys it reads and which bias it gives them.

    A chunk is where a bit of the number of offsets starts from the bits above it; odd numbers and 64 have them all.
    With q = 0 a query's scores are its bias terms, so softmax(row term + column term) over the stripe, applied to
    random values, tells a wrong, missing or doubled key and a swapped or shifted bias.
    """
    grid, head_dim, block = 64, 16, 64
    num_tokens = grid * grid
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(num_tokens, head_dim, generator=generator)
    qkv = torch.cat((torch.zeros(num_tokens, 2 * head_dim), values), 1)[None].to(DEVICE)
    perm = z_curve(grid)
    row, col = perm // grid, perm % grid
    for num_offsets in (*range(1, 64, 2), 64):
        row_step, col_step = lattice.lattice_steps(num_offsets)
        terms = torch.randn(grid // row_step + grid // col_step, num_tokens, generator=generator)
        out = torch.full((1, num_tokens, head_dim), float("nan"), device=DEVICE)
        launch = lattice._lattice_attention[(1,)]
        tables = (qkv, terms.to(DEVICE), perm.to(torch.int32).to(DEVICE), out)
        constants = lattice.lattice_constants(grid, head_dim, block)
        launch(*tables, 1, num_offsets, row_step, col_step, 1.0, **constants, PRECISION="ieee", num_warps=4)

        patches = torch.arange(0, num_tokens, 64)
        keys = (torch.tensor(bit_reversed_offsets(num_offsets))[:, None] + patches).flatten()
        row_terms, col_terms = terms.double().split((grid // row_step, grid // col_step))
        assert not (row[keys] % row_step).any() and not (col[keys] % col_step).any()
        by_row = row_terms[row[keys] // row_step][:, perm[:block]]
        by_col = col_terms[col[keys] // col_step][:, (col * grid + row)[:block]]
        weights = torch.exp2(by_row + by_col)
        expected = (weights / weights.sum(0)).T @ values[keys].double()
        assert relative_error(out[0, :block].cpu(), expected) <= 1e-6, num_offsets
        assert out[0, block:].isnan().all()


def test_morton_codes_are_exact():
    """`spread_bits` interleaves coordinates as the oracle's Morton code does, up to 256x256."""
    if DEVICE.type == "cuda":
        pytest.skip("calls a device function from the host, which only the interpreter can")
    tl = triton_language.tl
    out = torch.empty(256, dtype=torch.int32)

    @triton_language.jit
    def spread(out):
        coordinate = tl.arange(0, 256)
        tl.store(out + coordinate, lattice.spread_bits(coordinate))

    spread[(1,)](out)
    assert out.tolist() == [morton_code(0, coordinate) for coordinate in range(256)]


@pytest.mark.parametrize("pattern", (STATIC, WINDOWED_DENSE, None), ids=("listed", "window", "lattice"))
def test_scratch_and_result_are_written_throughout(pattern: Pattern | None, monkeypatch):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: empty(*shape, **options).fill_(float("nan")))
    case = lattice_case(3, 32, torch.float32) if pattern is None else make_case(pattern, 32, torch.float32)
    heads = 1 if pattern is None else NUM_HEADS
    assert relative_error(run(case, heads), masked_attention(case, heads)) <= KERNEL_TOLERANCE["fp32"]


@pytest.mark.parametrize("pattern", (RANKED, WINDOWED_DENSE, None), ids=("listed", "window", "lattice"))
def test_extreme_scores(pattern: Pattern | None):
    """Scores in the thousands, and a query whose every score is about -60000: no overflow, no 0 / 0."""
    case = lattice_case(5, 64, torch.float16) if pattern is None else make_case(pattern, 64, torch.float16)
    heads = 1 if pattern is None else NUM_HEADS
    case.qkv.mul_(8)
    case.qkv[0, 7, : heads * 64] = 30  # q . R is about -60000 for every row and column
    rel_pos = [torch.full_like(case.rel_pos_h, -15.0) + 0.01 * case.rel_pos_h for _ in "hw"]
    for altered in (case, dataclasses.replace(case, rel_pos_h=rel_pos[0], rel_pos_w=rel_pos[1])):
        out, expected = run(altered, heads), masked_attention(altered, heads)
        assert relative_error(out, expected) <= 3e-3
        assert relative_error(out[0, 7], expected[0, 7]) <= 3e-2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: dataclasses.replace(c, qkv=c.qkv[..., :96]), "head_dim 16 has no kernel"),
        (lambda c: dataclasses.replace(c, qkv=c.qkv.transpose(0, 1).contiguous().transpose(0, 1)), "contiguous"),
        (lambda c: dataclasses.replace(c, qkv_bias=c.qkv_bias.half()), "cast the bias"),
        (lambda c: dataclasses.replace(c, qkv_bias=torch.zeros(193)[1:]), "16 bytes"),
    ],
    ids=("head-dim", "strides", "dtype", "alignment"),
)
def test_what_no_kernel_takes_is_refused(change, words: str):
    case = make_case(STATIC, 32, torch.float32)
    with pytest.raises(InvalidInput, match=words):
        run(change(case))


def test_a_tensor_on_the_cpu_is_refused_without_the_interpreter(monkeypatch):
    case = make_case(STATIC, 32, torch.float32)
    monkeypatch.setattr(triton_language, "INTERPRETED", triton_language.tl.constexpr(False))
    with pytest.raises(InvalidInput, match="tensor on cpu; move model and input to a GPU"):
        stripe_attention(*case.tensors(), case.stripe, NUM_HEADS, backend="triton")


def test_without_triton_the_remedy_is_named(monkeypatch):
    case = make_case(STATIC, 32, torch.float32)
    monkeypatch.setattr(triton_language, "triton", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'sparsesam-deploy\[triton\]'"):
        stripe_attention(*case.tensors(), case.stripe, NUM_HEADS, backend="triton")
