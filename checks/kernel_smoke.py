"""Every Triton kernel once, on the shapes of the nano model: what compute-sanitizer watches.

compute-sanitizer --tool memcheck python -m checks.kernel_smoke
"""

from __future__ import annotations

import click
import torch
from torch import Tensor

from benchmarks.random_weights import random_encoder
from benchmarks.results import progress
from sparsesam_deploy.model.attention import ImageState
from sparsesam_deploy.model.config import DENSE, PRESETS, ROUTINGS, SamConfig, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder

CONFIG = SamConfig("custom", embed_dim=192, depth=4, num_heads=3, global_blocks=(0, 3))
"""The nano model's width; between its global blocks two windowed ones, both with an MLP that may be routed."""

VARIANTS: dict[str, SparsityConfig] = {
    "dense": DENSE,
    "default preset: lattice, share-variance": PRESETS["default"],
    **{f"lattice, {routing}": SparsityConfig(0.4, 0.3, routing=routing) for routing in ROUTINGS},
    "interleaved, sparse windows, skip-static": SparsityConfig(0.4, 0.4, 0.4, "interleaved", "skip-static"),
    "paper preset: ranked, skip-group-rank": PRESETS["paper"],
}


@torch.no_grad()
def run(device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The stream after all blocks, for every variant; no convolutions, which are not ours."""
    image_encoder = random_encoder(CONFIG, device, dtype)
    generator = torch.Generator(device).manual_seed(0)
    stream = torch.randn(1, CONFIG.num_tokens, CONFIG.embed_dim, generator=generator, device=device).to(dtype)
    found = {}
    for name, sparsity in VARIANTS.items():
        progress(f"kernels: {name}")
        encoder = SparseSamEncoder(image_encoder, CONFIG, sparsity, backend="triton").to(device)
        x, state = stream, ImageState()
        for block in encoder.blocks:
            x = block(x, state)
        found[name] = x
    return found


@click.command(help=__doc__.splitlines()[0])
def main() -> None:
    if not torch.cuda.is_available():
        click.echo("error: no CUDA device was found; run this on a machine with a GPU.", err=True)
        raise SystemExit(3)
    found = run(torch.device("cuda"), torch.float16)
    torch.cuda.synchronize()
    wrong = [name for name, stream in found.items() if not stream.isfinite().all()]
    click.echo(f"not finite: {', '.join(wrong)}" if wrong else f"{len(found)} variants ran, all values finite")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
