"""The image encoder: eager Segment Anything, ours dense and sparse, and the matrix products alone as the floor.

    python -m benchmarks.encoder_speed --json engines/built/vit_h.json vit_h

Weights are random, of the size a trained network has, and fp16. Every variant is compared with a float32 encoder before
it is timed: ours with the torch reference that follows the same routing decisions.
"""

from __future__ import annotations

import gc
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from benchmarks import timing
from benchmarks.random_weights import random_encoder
from benchmarks.results import progress, save
from benchmarks.timing import Row, measure
from sparsesam_deploy.model.attention import ImageState
from sparsesam_deploy.model.config import FAMILIES, IMAGE_SIZE, PRESETS, SamConfig, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.model.layers import cast_copy
from sparsesam_deploy.ops.routing import SHARING
from sparsesam_deploy.parity.metrics import relative_l2
from sparsesam_deploy.parity.tolerance import TOLERANCES

BATCHES = (1, 8, 4)
"""In the order of what must be known if time runs out."""
DEFAULT = "default preset"
OTHERS = {
    **{f"density {d:g}": SparsityConfig(d, d) for d in (1.0, 0.5, 0.4, 0.3)},
    **{f"{routing}, MLP 0.3": SparsityConfig(mlp_density=0.3, routing=routing) for routing in SHARING[1:]},
}
"""Our variants besides the default preset, by name; density 1 is the fused dense control."""
EAGER, GRAPH, COMPILED = "eager", "eager, graph", "torch.compile, graph"
OURS = TOLERANCES["fp16"].embedding
EAGER_TOLERANCE = 3e-2
"""Eager fp16 rounds everything to fp16, LayerNorm2d's squares too; it is the baseline, not what is judged."""
TOP_KERNELS = 15


@dataclass(frozen=True)
class Gemm:
    """One linear layer of one block: (rows, inputs) times (inputs, outputs)."""

    block: int
    name: str
    rows: int
    inputs: int
    outputs: int

    @property
    def operations(self) -> int:
        return 2 * self.rows * self.inputs * self.outputs


def density_of(sparsity: SparsityConfig) -> dict[str, float]:
    return {"attention": sparsity.attention_density, "mlp": sparsity.mlp_density}


def random_images(batch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(B, 3, 1024, 1024): coarse blobs under noise whose strength varies, so that some cells are flat and some not."""
    generator = torch.Generator(device).manual_seed(batch)

    def random(side: int, channels: int = 3) -> Tensor:
        coarse = torch.randn(batch, channels, side, side, generator=generator, device=device)
        return nn.functional.interpolate(coarse, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear")

    return (random(24) + random(12, 1).abs() * random(128)).to(dtype)


def gemms(encoder: SparseSamEncoder, batch: int = 1) -> list[Gemm]:
    """The linear layers of all blocks with the rows each really has; the patch embedding and the neck are left out."""
    found, num_tokens = [], encoder.config.num_tokens
    for index, block in enumerate(encoder.blocks):
        rows = {"qkv": num_tokens, "proj": num_tokens}
        rows["fc1"] = rows["fc2"] = getattr(block.mlp, "num_rows", num_tokens)
        for name, layer in linear_layers(block).items():
            found.append(Gemm(index, name, batch * rows[name], layer.in_features, layer.out_features))
    return found


def linear_layers(block: nn.Module) -> dict[str, nn.Linear]:
    attention, mlp = block.attention, block.mlp
    return {"qkv": attention.qkv, "proj": attention.proj, "fc1": mlp.lin1, "fc2": mlp.lin2}


def floor_calls(encoder: SparseSamEncoder, batch: int, image: Tensor) -> list[Callable[[], Tensor]]:
    """Every product of `gemms`, on the encoder's own weights and random rows."""
    shapes = gemms(encoder, batch)
    rows = {
        shape: torch.randn(shape, device=image.device, dtype=image.dtype)
        for shape in {(g.rows, g.inputs) for g in shapes}
    }
    layers = [linear_layers(block) for block in encoder.blocks]
    return [partial(layers[g.block][g.name], rows[g.rows, g.inputs]) for g in shapes]


def time_floor(encoder: SparseSamEncoder, batch: int, image: Tensor) -> dict:
    """The products of one encode alone in one CUDA graph: microseconds, and the rate they reach."""
    calls = floor_calls(encoder, batch, image)

    def all_products() -> None:
        for call in calls:
            call()

    measured = timing.time_graph([all_products])
    operations = sum(g.operations for g in gemms(encoder, batch))
    return {
        **asdict(measured),
        "gflop": round(operations / 1e9, 1),
        "tflops": round(operations / measured.median / 1e6, 1),
    }


def our_error(encoder: SparseSamEncoder, images: Tensor, floats: ImageEncoderViT) -> float:
    """Of our embeddings against the float32 reference, image by image, deciding as our encoder did."""
    state = ImageState()
    found = encoder.finish(deque(encoder.streams(images, state), maxlen=1).pop())
    reference = SparseSamEncoder(floats, encoder.config, encoder.sparsity).to(images.device)
    expected = []
    for i in range(len(images)):
        followed = ImageState({name: part(decision, i, len(images)) for name, decision in state.decisions.items()})
        stream = deque(reference.streams(images[i : i + 1].float(), followed), maxlen=1).pop()
        expected.append(reference.finish(stream))
    return relative_l2(found, torch.cat(expected))


def part(decision: Tensor, index: int, batch: int) -> Tensor:
    """One image's share of a decision, whose first axis is the batch or (windows of) each image in turn."""
    each = len(decision) // batch
    return decision[index * each : (index + 1) * each]


def eager_error(encoder: ImageEncoderViT, images: Tensor, floats: ImageEncoderViT) -> float:
    expected = torch.cat([floats(image[None].float()) for image in images])
    return relative_l2(encoder(images), expected)


def on_device(encoder: nn.Module, images: Tensor) -> Tensor:
    """One pass with index tensors made on the images' device: stock SAM makes them on the CPU, which no graph takes."""
    with torch.device(images.device):
        return encoder(images)


class EncoderBench:
    """All measurements of one family; ``results`` grows as they are made."""

    def __init__(
        self, config: SamConfig, device: torch.device, dtype: torch.dtype, others: Mapping[str, SparsityConfig]
    ) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.stock = random_encoder(config, device, dtype)
        self.floats = cast_copy(self.stock, torch.float32)
        self.ours = {
            name: SparseSamEncoder(self.stock, config, sparsity, backend="triton").to(device).eval()
            for name, sparsity in {DEFAULT: PRESETS["default"], **others}.items()
        }
        self.results: dict = {"rows": [], "kernels": None}

    def run(self, batches: Sequence[int], compiled: bool) -> Iterator[dict]:
        """Measure batch after batch; yields the results after every row."""
        for batch in batches:
            images = random_images(batch, self.device, self.dtype)
            for row in self.rows_of(batch, images):
                self.results["rows"].append(row)
                add_ratios(self.results["rows"])
                yield self.results
                clean_up()
            if batch == batches[0]:
                self.results["kernels"] = self.kernels(images)
                yield self.results
        if compiled:
            images = random_images(1, self.device, self.dtype)
            self.say(1, COMPILED)
            self.results["rows"].append(self.compiled(images))
            add_ratios(self.results["rows"])
            yield self.results

    def say(self, batch: int, name: str) -> None:
        progress(f"encoder: {self.config.family}, batch {batch}, {name}")

    def rows_of(self, batch: int, images: Tensor) -> Iterator[dict]:
        stock = self.stock
        self.say(batch, EAGER)
        error = partial(eager_error, stock, images, self.floats)
        eager = measure(EAGER, error, EAGER_TOLERANCE, lambda: timing.time_eager(lambda: stock(images)), optional=True)
        yield self.result(eager, batch, partial(stock, images))
        self.say(batch, GRAPH)
        checked = (lambda: eager.error) if eager.timing else error
        call = partial(on_device, stock, images)  # the same operations: compared once
        graph = measure(GRAPH, checked, EAGER_TOLERANCE, lambda: timing.time_graph([call]), optional=True)
        yield self.result(graph, batch)
        for name, encoder in self.ours.items():
            self.say(batch, name)
            row = measure(
                name,
                partial(our_error, encoder, images, self.floats),
                OURS,
                lambda encoder=encoder: timing.time_graph([partial(encoder, images)]),
            )
            result = self.result(row, batch, partial(encoder, images))
            result["density"] = density_of(encoder.sparsity)
            try:
                result["floor"] = time_floor(encoder, batch, images)
            except Exception as problem:  # the other figures go on
                result["floor_not_run"] = timing.reason(problem)
            yield result

    def result(self, row: Row, batch: int, call: Callable[[], object] | None = None) -> dict:
        """With the peak of activation memory of ``call``, launched eagerly, where the variant was timed."""
        peak = None
        if call is not None and row.timing is not None:
            try:
                peak = round(timing.peak_memory(call) / 2**20, 1)
            except Exception as problem:  # the time stays
                row = Row(row.name, row.status, f"memory: {timing.reason(problem)}", row.error, row.timing)
        return {"family": self.config.family, "batch": batch, **asdict(row), "peak_mib": peak}

    def compiled(self, images: Tensor) -> dict:
        model = torch.compile(self.stock)
        call = partial(on_device, model, images)

        def error() -> float:
            expected = torch.cat([self.floats(image[None].float()) for image in images])
            return relative_l2(call(), expected)

        row = measure(COMPILED, error, EAGER_TOLERANCE, lambda: timing.time_graph([call]), optional=True)
        return self.result(row, len(images))

    def kernels(self, images: Tensor) -> dict:
        """Where one encode at the default preset spends its time: GPU microseconds and launches, by kernel."""
        self.say(len(images), "profile of the default preset")
        try:
            return kernel_times(partial(self.ours[DEFAULT], images))
        except Exception as problem:  # a profiler may be missing
            return {"not_run": timing.reason(problem)}


def kernel_times(call: Callable[[], object]) -> dict:
    """The kernels of ``call`` that take longest, the sum of all others, and the total."""
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    times: Counter[str] = Counter()
    launches: Counter[str] = Counter()
    for event in profiler.events():
        if event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        times[event.name] += event.time_range.elapsed_us()
        launches[event.name] += 1
    return top_kernels(times, launches)


def top_kernels(times: Counter[str], launches: Counter[str]) -> dict:
    total = sum(times.values())
    longest = times.most_common(TOP_KERNELS)
    rows = [{"kernel": name, "us": round(us, 1), "launches": launches[name]} for name, us in longest]
    return {"total_us": round(total, 1), "others_us": round(total - sum(us for _, us in longest), 1), "top": rows}


def add_ratios(rows: Sequence[dict]) -> None:
    """``speed_up`` over eager in a graph, ``of_floor``, ``memory_of_eager``: at one batch, where both are known."""

    def of(name: str, batch: int) -> dict:
        return next((r for r in rows if r["name"] == name and r["batch"] == batch), {})

    for row in rows:
        graph, eager = of(GRAPH, row["batch"]), of(EAGER, row["batch"])
        time = row["timing"]["median"] if row["timing"] else None
        base = graph["timing"]["median"] if graph.get("timing") else None
        floor = row.get("floor")
        row["speed_up"] = round(base / time, 2) if time and base else None
        row["of_floor"] = round(time / floor["median"], 3) if time and floor else None
        peaks = row["peak_mib"], eager.get("peak_mib")
        row["memory_of_eager"] = round(peaks[0] / peaks[1], 4) if all(peaks) else None


def clean_up() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@torch.no_grad()
def bench(
    config: SamConfig,
    batches: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    others: Mapping[str, SparsityConfig] = OTHERS,
    compiled: bool = False,
    report: Callable[[dict], None] = lambda results: None,
) -> dict:
    """All measurements of one family; ``report`` gets what is known so far."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    progress(f"encoder: {config.family}, random weights")
    measuring = EncoderBench(config, device, dtype, others)
    for results in measuring.run(batches, compiled):
        report(results)
    return measuring.results


def table(results: dict[str, dict]) -> Table:
    """One line a variant, of all families."""
    headings = ("model", "batch", "variant", "ms", "ms an image", "speed-up", "floor ms", "of floor", "MiB", "error")
    title = "image encoder, fp16; floor: its own matrix products alone; speed-up: over eager in a graph"
    made = Table(*headings, title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for family, found in results.items():
        for row in sorted(found["rows"], key=lambda row: row["batch"]):
            place = family, str(row["batch"]), row["name"]
            if not (timed := row["timing"]):
                made.add_row(*place, row["status"], row["detail"])
                continue
            milliseconds = timed["median"] / 1e3
            floor = row.get("floor")
            made.add_row(
                *place,
                f"{milliseconds:.2f}",
                f"{milliseconds / row['batch']:.2f}",
                f"{row['speed_up']:.1f}x" if row["speed_up"] else "",
                f"{floor['median'] / 1e3:.2f}" if floor else "",
                f"{row['of_floor']:.2f}" if row["of_floor"] else "",
                f"{row['peak_mib']:.0f}" if row["peak_mib"] else "",
                f"{row['error']:.0e}" if row["error"] else "",
            )
    return made


def any_failed(results: dict) -> bool:
    return any(row["status"] == "failed" for row in results["rows"])


@click.command(help=__doc__.splitlines()[0])
@click.argument("family", type=click.Choice(list(FAMILIES)))
@click.option("--json", "path", type=click.Path(path_type=Path), help="Where the results go, after every row.")
@click.option("--compile/--no-compile", "compiled", default=False, help="torch.compile too, which takes minutes.")
def main(family: str, path: Path | None, compiled: bool) -> None:
    if not torch.cuda.is_available():
        click.echo("error: no CUDA device was found; run this on a machine with a GPU.", err=True)
        raise SystemExit(3)
    report = partial(save, path) if path else (lambda results: None)
    device = torch.device("cuda")
    results = bench(FAMILIES[family], BATCHES, device, torch.float16, compiled=compiled, report=report)
    Console(width=130).print(table({family: results}))
    raise SystemExit(any_failed(results))


if __name__ == "__main__":
    main()
