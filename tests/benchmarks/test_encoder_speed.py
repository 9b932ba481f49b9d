"""The encoder's bench: its floor counted by hand, and all of it once on a small network."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from rich.console import Console

from benchmarks import encoder_speed
from benchmarks.encoder_speed import DEFAULT, EAGER, GRAPH, bench, gemms, part, top_kernels
from benchmarks.random_weights import random_encoder
from sparsesam_deploy.model.config import DENSE, FAMILIES, SamConfig, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.model.sam import build_sam

SMALLEST = SamConfig("custom", embed_dim=32, depth=2, num_heads=1, global_blocks=(0,))
SHARED_ROWS = 2047
"""At mlp_density 0.5: 341 groups of 4 rows, and one row for each of the other 683."""


def products(family: str, sparsity: SparsityConfig, batch: int = 1) -> list[encoder_speed.Gemm]:
    config = FAMILIES[family]
    return gemms(SparseSamEncoder(build_sam(config).image_encoder, config, sparsity), batch)


@pytest.mark.parametrize(("family", "depth", "width"), (("vit_b", 12, 768), ("vit_l", 24, 1024), ("vit_h", 32, 1280)))
def test_dense_products_are_twelve_squares_of_the_width(family: str, depth: int, width: int):
    found = products(family, DENSE)
    assert len(found) == 4 * depth
    assert {gemm.rows for gemm in found} == {4096}
    assert sum(gemm.operations for gemm in found) == 2 * 4096 * 12 * width**2 * depth


@pytest.mark.parametrize(("family", "depth"), (("vit_b", 12), ("vit_l", 24), ("vit_h", 32)))
def test_routed_mlps_have_the_rows_that_are_packed(family: str, depth: int):
    found = products(family, SparsityConfig(), batch=8)
    assert Counter(gemm.rows for gemm in found) == {8 * 4096: 2 * depth, 8 * SHARED_ROWS: 2 * depth}
    assert {gemm.name for gemm in found if gemm.rows == 8 * SHARED_ROWS} == {"fc1", "fc2"}


def test_the_floor_is_the_encoders_own_layers_on_random_rows():
    stock = random_encoder(SMALLEST, torch.device("cpu"), torch.float32)
    encoder = SparseSamEncoder(stock, SMALLEST, SparsityConfig())
    image = torch.empty(0)
    with torch.no_grad():
        outputs = [call() for call in encoder_speed.floor_calls(encoder, 2, image)]
    rows = 2 * (2 * [2 * 4096] + 2 * [2 * SHARED_ROWS])
    assert [tuple(out.shape) for out in outputs] == list(zip(rows, 2 * [96, 32, 128, 32], strict=True))
    assert all(out.std() > 0.1 for out in outputs)


def test_a_decision_is_divided_among_images():
    windows = torch.arange(2 * 25)[:, None]
    assert part(windows, 1, 2).flatten().tolist() == list(range(25, 50))


def test_kernel_times_add_up():
    times = Counter({f"k{i}": float(i) for i in range(20)})
    found = top_kernels(times, Counter(times.keys()))
    assert len(found["top"]) == 15 and found["top"][0] == {"kernel": "k19", "us": 19.0, "launches": 1}
    assert sum(row["us"] for row in found["top"]) + found["others_us"] == found["total_us"] == 190.0


def test_all_of_it_on_a_small_network(pretended_clock, monkeypatch):
    """Every variant agrees with float32, so every variant gets a time, a floor and a ratio."""
    monkeypatch.setattr(encoder_speed, "kernel_times", lambda call: {"total_us": 0.0})
    seen = []
    cpu = torch.device("cpu")
    results = bench(SMALLEST, (1,), cpu, torch.float32, {}, report=lambda results: seen.append(len(results["rows"])))
    assert seen == [1, 2, 3, 3]
    assert [row["name"] for row in results["rows"]] == [EAGER, GRAPH, DEFAULT]
    ours = results["rows"][-1]
    assert ours["status"] == "timed" and ours["error"] <= 1e-5, ours["detail"]
    assert (ours["speed_up"], ours["of_floor"], ours["memory_of_eager"]) == (1.0, 1.0, 1.0)
    assert ours["floor"]["gflop"] == pytest.approx(2e-9 * 12 * 32**2 * 2 * (4096 + 2 * SHARED_ROWS) / 3, abs=0.1)
    assert ours["density"] == {"attention": 0.25, "mlp": 0.5}
    console = Console(width=130)
    with console.capture() as captured:
        console.print(encoder_speed.table({"custom": results}))
    assert captured.get().count("1.00") >= 3


def test_a_wrong_encoder_gets_no_time(pretended_clock, monkeypatch):
    monkeypatch.setattr(encoder_speed, "kernel_times", lambda call: {})
    monkeypatch.setattr(encoder_speed, "eager_error", lambda *arguments: 1.0)
    monkeypatch.setattr(encoder_speed, "our_error", lambda *arguments: 1.0)
    monkeypatch.setattr(encoder_speed, "time_floor", lambda *arguments: {"median": 1.0})
    results = bench(SMALLEST, (1,), torch.device("cpu"), torch.float32, {})
    assert {row["status"] for row in results["rows"]} == {"failed"}
    assert all(row["timing"] is row["peak_mib"] is row["speed_up"] is None for row in results["rows"])
    assert encoder_speed.any_failed(results)
