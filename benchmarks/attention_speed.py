"""Stripe attention alone: its kernels against torch SDPA, flex_attention and what the GPU can do at all.

    python -m benchmarks.attention_speed --json engines/built/attention.json vit_b vit_h

Shapes are those of one global block: 4096 tokens, fp16. Every variant is compared with the float32 reference before it
is timed; times are of CUDA graph replays that rotate over several inputs, and include the position terms and the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor

from benchmarks import timing
from benchmarks.results import progress, save
from benchmarks.timing import Row, measure
from sparsesam_deploy.model.attention import SparseAttention
from sparsesam_deploy.model.config import FAMILIES, BlockPlan, SamConfig, SparsityConfig
from sparsesam_deploy.ops.geometry import GRID_SIZE, WINDOW_SIZE
from sparsesam_deploy.ops.stripe_attention import Stripe, stripe_attention
from sparsesam_deploy.parity.metrics import relative_l2

NUM_TOKENS = GRID_SIZE**2

BATCHES = (1, 8)
DENSITIES = (0.25, 0.3, 0.4, 0.5, 1.0)
OURS, THEIRS = 3e-3, 1e-2
"""Tolerances, relative in L2, in fp16: of our kernels, and of code that rounds the bias or its terms to fp16."""
SDPA, SDPA_BIAS, BIAS, FLEX = "SDPA, no bias", "SDPA, bias materialised", "building that bias", "flex_attention, bias"
WINDOWED = "windowed, dense"


@dataclass(frozen=True)
class Variant:
    """One of our kernels at work: the stripe that ``sparsity`` makes in a global or windowed block."""

    name: str
    density: float
    sparsity: SparsityConfig
    windowed: bool = False


DENSE = Variant("lattice, density 1", 1.0, SparsityConfig(1.0, 1.0))
VARIANTS = (
    *(Variant(f"lattice, density {d:g}", d, SparsityConfig(d, 1.0)) for d in DENSITIES),
    Variant("interleaved, density 0.4", 0.4, SparsityConfig(0.4, 1.0, order="interleaved")),
    Variant(WINDOWED, 1.0, SparsityConfig(1.0, 1.0), windowed=True),
)


class Inputs:
    """Random projections for one block: ``sets`` of them, so that together they do not fit in the cache."""

    def __init__(self, config: SamConfig, batch: int, sets: int, device: torch.device, dtype: torch.dtype) -> None:
        generator = torch.Generator(device).manual_seed(config.embed_dim + batch)
        self.num_heads, self.head_dim, self.device = config.num_heads, config.head_dim, device

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        self.qkvs = [random(batch, NUM_TOKENS, 3 * config.embed_dim) for _ in range(sets)]
        self.bias = random(3 * config.embed_dim)
        scale = config.head_dim**-0.5
        self.tables = {
            side: tuple(scale * random(2 * side - 1, config.head_dim) for _ in "hw")
            for side in (GRID_SIZE, WINDOW_SIZE)
        }

    def heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """q, k, v: (B, num_heads, N, head_dim), contiguous as a model written for SDPA would have them."""
        parts = qkv.unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        return tuple(part.contiguous() for part in parts)


def make_stripe(variant: Variant, config: SamConfig, device: torch.device) -> tuple[Stripe, float]:
    """The tables as the encoder has them, and the share of (query, key) pairs that they compute."""
    side = WINDOW_SIZE if variant.windowed else GRID_SIZE
    with torch.device("meta"):
        attention = Attention(config.embed_dim, config.num_heads, use_rel_pos=True, input_size=(side, side))
    sparse = SparseAttention(attention, BlockPlan(0, variant.windowed, variant.density), variant.sparsity, "triton")
    tables = {name: getattr(sparse, name).to(device) for name in sparse.table_names if name != "groups"}
    return Stripe(**tables, lattice_offsets=sparse.static.lattice_offsets), sparse.effective_density


def reference_error(found: Tensor, inputs: Inputs, stripe: Stripe, qkv: Tensor) -> float:
    """Against the float32 reference, which is computed image by image: its scores take a gigabyte each."""
    tables = inputs.tables[stripe.rel_index.shape[0]]
    floats = inputs.bias.float(), *(table.float() for table in tables)
    expected = [stripe_attention(image[None].float(), *floats, stripe, inputs.num_heads) for image in qkv]
    return relative_l2(found, torch.cat(expected))


def unbiased_error(found: Tensor, heads: tuple[Tensor, ...]) -> float:
    """Of SDPA's result against a softmax written out in float32, image by image."""
    expected = []
    for q, k, v in zip(*heads, strict=True):
        scores = q.float() @ k.float().transpose(1, 2) * q.shape[-1] ** -0.5
        expected.append(scores.softmax(-1) @ v.float())
    return relative_l2(found, torch.stack(expected))


def merged(out: Tensor) -> Tensor:
    """(B, num_heads, N, head_dim) -> (B, N, C)."""
    return out.transpose(1, 2).flatten(2)


def bias_terms(q: Tensor, tables: tuple[Tensor, ...], perm: Tensor) -> tuple[Tensor, Tensor]:
    """Terms of every query against every grid row and column: (B, num_heads, N, 64) each, in q's dtype and order."""
    coordinate = torch.arange(GRID_SIZE, device=q.device)
    terms = []
    for table, own in zip(tables, (perm.long() // GRID_SIZE, perm.long() % GRID_SIZE), strict=True):
        relative = table[own[:, None] - coordinate[None] + GRID_SIZE - 1]
        terms.append(torch.einsum("bhnd,nkd->bhnk", q, relative))
    return terms[0], terms[1]


def materialised_bias(q: Tensor, tables: tuple[Tensor, ...], perm: Tensor) -> Tensor:
    """SAM's bias as one (B, num_heads, N, N) tensor in q's dtype."""
    rows, cols = bias_terms(q, tables, perm)
    return rows[..., perm.long() // GRID_SIZE] + cols[..., perm.long() % GRID_SIZE]


def bench_ours(variant: Variant, config: SamConfig, inputs: Inputs) -> dict:
    """One of our kernels, position terms included."""
    stripe, effective = make_stripe(variant, config, inputs.device)
    tables = inputs.tables[stripe.rel_index.shape[0]]

    def run(qkv: Tensor) -> Tensor:
        return stripe_attention(qkv, inputs.bias, *tables, stripe, inputs.num_heads, "triton")

    row = measure(
        variant.name,
        lambda: reference_error(run(inputs.qkvs[0]), inputs, stripe, inputs.qkvs[0]),
        OURS,
        lambda: timing.time_graph([partial(run, qkv) for qkv in inputs.qkvs] * 2),
    )
    length = len(stripe.members.flatten()) if variant.windowed else NUM_TOKENS
    keys = effective * (WINDOW_SIZE**2 if variant.windowed else NUM_TOKENS)
    return as_result(row, config, inputs, length * keys, variant.density)


def bench_torch(config: SamConfig, inputs: Inputs) -> list[dict]:
    """Torch's own attention on the dense shape: without bias, and with a bias that was built before."""
    stripe, _ = make_stripe(DENSE, config, inputs.device)
    heads = [inputs.heads(qkv) for qkv in inputs.qkvs]
    attend = F.scaled_dot_product_attention
    rows = [
        measure(
            SDPA,
            lambda: unbiased_error(attend(*heads[0]), heads[0]),
            OURS,
            lambda: timing.time_graph([partial(attend, *qkv) for qkv in heads] * 2),
        )
    ]
    try:
        tables = inputs.tables[GRID_SIZE]
        masks = [materialised_bias(q, tables, stripe.perm) for q, _, _ in heads]
    except torch.OutOfMemoryError as error:
        rows += [Row(name, "not run", timing.reason(error)) for name in (SDPA_BIAS, BIAS)]
    else:
        biased = [partial(attend, *qkv, attn_mask=mask) for qkv, mask in zip(heads, masks, strict=True)]
        build = partial(materialised_bias, heads[0][0], tables, stripe.perm)
        rows += [
            measure(
                SDPA_BIAS,
                lambda: reference_error(merged(biased[0]()), inputs, stripe, inputs.qkvs[0]),
                THEIRS,
                lambda: timing.time_graph(biased * 2),
                optional=True,
            ),
            # its result was checked by the row before
            measure(BIAS, lambda: 0.0, THEIRS, lambda: timing.time_graph([build] * 2), optional=True),
        ]
    pairs = {SDPA: NUM_TOKENS**2, SDPA_BIAS: NUM_TOKENS**2, BIAS: 0}
    return [as_result(row, config, inputs, pairs[row.name], 1.0) for row in rows]


def bench_flex(config: SamConfig, inputs: Inputs) -> dict:
    """flex_attention, compiled, the bias as score_mod from terms that were computed before; dense, no block mask."""
    stripe, _ = make_stripe(DENSE, config, inputs.device)
    q, k, v = inputs.heads(inputs.qkvs[0])
    rows, cols = bias_terms(q, inputs.tables[GRID_SIZE], stripe.perm)
    row_of, col_of = stripe.perm // GRID_SIZE, stripe.perm % GRID_SIZE

    def with_bias(score, image, head, query, key):
        return score + rows[image, head, query, row_of[key]] + cols[image, head, query, col_of[key]]

    compiled = None

    def run() -> Tensor:
        nonlocal compiled
        if compiled is None:
            from torch.nn.attention.flex_attention import flex_attention

            compiled = torch.compile(flex_attention, dynamic=False)
        return compiled(q, k, v, score_mod=with_bias)

    row = measure(
        FLEX,
        lambda: reference_error(merged(run()), inputs, stripe, inputs.qkvs[0]),
        THEIRS,
        lambda: timing.time_graph([run] * 4),
        optional=True,
    )
    return as_result(row, config, inputs, NUM_TOKENS**2, 1.0)


def as_result(row: Row, config: SamConfig, inputs: Inputs, pairs: float, density: float) -> dict:
    """``pairs`` (query, key) pairs per head and image; their two products are the work that counts."""
    batch = len(inputs.qkvs[0])
    operations = 4 * batch * pairs * config.embed_dim
    rate = round(operations / row.median / 1e6, 1) if row.median else None
    return {"family": config.family, "batch": batch, "density": density, **asdict(row), "tflops": rate}


def ceilings(device: torch.device, dtype: torch.dtype, side: int = 8192, copied: int = 1 << 30) -> dict[str, float]:
    """What this GPU does: TFLOP/s of a large matrix product, and GB/s of a large copy, read and written."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in "ab")
    product = timing.time_graph([partial(torch.mm, a, b)] * 3)
    del a, b
    source = torch.randint(0, 256, (copied,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    copy = timing.time_graph([partial(target.copy_, source)] * 2)
    return {
        "matrix_tflops": round(2 * side**3 / product.median / 1e6, 1),
        "copy_gb_per_second": round(2 * copied / copy.median / 1e3, 1),
    }


def add_ratios(rows: Sequence[dict]) -> None:
    """``ratio_to_sdpa``: time over that of SDPA without bias at the same family and batch, where both were timed."""
    base = {(r["family"], r["batch"]): r["timing"]["median"] for r in rows if r["name"] == SDPA and r["timing"]}
    for row in rows:
        sdpa = base.get((row["family"], row["batch"]))
        row["ratio_to_sdpa"] = round(row["timing"]["median"] / sdpa, 3) if row["timing"] and sdpa else None


@torch.no_grad()
def bench(
    configs: Sequence[SamConfig],
    batches: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    flex: bool = True,
    report: Callable[[dict], None] = lambda results: None,
) -> dict:
    """All variants; ``report`` gets what is known so far. flex_attention comes last, since compiling takes long."""
    torch.backends.cuda.matmul.allow_tf32 = False
    results: dict = {"ceilings": None, "rows": []}
    progress("attention: matrix product and copy")
    try:
        results["ceilings"] = ceilings(device, dtype)
    except Exception as problem:  # the other figures go on
        results["ceilings_not_run"] = timing.reason(problem)

    def add(rows: Sequence[dict]) -> None:
        results["rows"] += rows
        add_ratios(results["rows"])
        report(results)

    def each(batches: Sequence[int]) -> list[tuple[SamConfig, int]]:
        return [(config, batch) for batch in batches for config in configs]

    for config, batch in each(batches):
        progress(f"attention: {config.family}, batch {batch}")
        inputs = Inputs(config, batch, 4 if batch < 4 else 2, device, dtype)
        add(bench_torch(config, inputs))
        for variant in VARIANTS:
            add([bench_ours(variant, config, inputs)])
    for config, batch in each(batches[:1]) if flex else ():
        progress(f"attention: {config.family}, batch {batch}, flex_attention is compiled")
        add([bench_flex(config, Inputs(config, batch, 1, device, dtype))])
    return results


def table(results: dict) -> Table:
    """One line a variant."""
    ceiling = results["ceilings"]
    title = "attention of one block, fp16, CUDA graph replays"
    if ceiling:
        title += f"; matrix product {ceiling['matrix_tflops']:g} TFLOP/s, copy {ceiling['copy_gb_per_second']:g} GB/s"
    headings = ("model", "batch", "variant", "us", "p10 - p90", "TFLOP/s", "of SDPA", "error")
    made = Table(*headings, title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for row in results["rows"]:
        place = row["family"], str(row["batch"]), row["name"]
        if (timed := row["timing"]) is None:
            made.add_row(*place, row["status"], row["detail"])
            continue
        rate, ratio = row["tflops"], row["ratio_to_sdpa"]
        made.add_row(
            *place,
            f"{timed['median']:.1f}",
            f"{timed['p10']:.1f} - {timed['p90']:.1f}",
            f"{rate:.0f}" if rate else "",
            f"{ratio:.2f}" if ratio else "",
            f"{row['error']:.0e}" if row["error"] else "",
        )
    return made


def any_failed(results: dict) -> bool:
    return any(row["status"] == "failed" for row in results["rows"])


@click.command(help=__doc__.splitlines()[0])
@click.argument("families", nargs=-1, type=click.Choice(list(FAMILIES)))
@click.option("--json", "path", type=click.Path(path_type=Path), help="Where the results go, after every row.")
@click.option("--flex/--no-flex", default=True, help="Whether flex_attention, which compiles for long, takes part.")
def main(families: tuple[str, ...], path: Path | None, flex: bool) -> None:
    if not torch.cuda.is_available():
        click.echo("error: no CUDA device was found; run this on a machine with a GPU.", err=True)
        raise SystemExit(3)
    configs = [FAMILIES[family] for family in families or ("vit_b", "vit_l", "vit_h")]
    report = (lambda results: save(path, results)) if path else (lambda results: None)
    results = bench(configs, BATCHES, torch.device("cuda"), torch.float16, flex, report)
    Console(width=130).print(table(results))
    raise SystemExit(any_failed(results))


if __name__ == "__main__":
    main()
