"""The bench of attention kernels on the CPU: what runs, what is counted, what is compared."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from benchmarks import attention_speed
from benchmarks.attention_speed import BIAS, FLEX, SDPA, SDPA_BIAS, VARIANTS, WINDOWED, bench, ceilings
from sparsesam_deploy.model.config import SamConfig

ONE_HEAD = SamConfig("custom", embed_dim=32, depth=1, num_heads=1, global_blocks=(0,))
CPU = torch.device("cpu")
LATTICE = "lattice, density 0.4"


@pytest.fixture
def few_variants(pretended_clock, monkeypatch) -> None:
    """Two of our kernels: the interpreter takes a minute for a stripe with the own tile."""
    kept = [variant for variant in VARIANTS if variant.name in (LATTICE, WINDOWED)]
    monkeypatch.setattr(attention_speed, "VARIANTS", tuple(kept))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_every_variant_computes_its_reference(few_variants, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    small = ceilings(CPU, torch.float32, side=16, copied=64)
    assert small == {"matrix_tflops": 0.0, "copy_gb_per_second": 0.0}
    monkeypatch.setattr(attention_speed, "ceilings", lambda device, dtype: small)
    results = bench([ONE_HEAD], (1,), CPU, torch.float32)
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows) == [SDPA, SDPA_BIAS, BIAS, LATTICE, WINDOWED, FLEX]
    for row in rows.values():
        assert row["status"] == "timed" and row["error"] <= 1e-5, (row["name"], row["detail"])
        assert row["ratio_to_sdpa"] == 1.0
    assert rows[SDPA]["tflops"] == round(4 * 4096**2 * 32 / 1000 / 1e6, 1)
    console = Console(width=130)
    with console.capture() as captured:
        console.print(attention_speed.table(results))
    assert LATTICE in captured.get()


def test_work_is_what_was_computed():
    """At density 0.4, 26 of 64 offsets of the lattice; or 25 of 64 tiles and, of the others, the own one."""
    effective = {v.name: attention_speed.make_stripe(v, ONE_HEAD, CPU)[1] for v in VARIANTS}
    assert effective[LATTICE] == 26 / 64
    assert effective["lattice, density 1"] == effective[WINDOWED] == 1.0
    assert effective["interleaved, density 0.4"] == pytest.approx(25 / 64 + (1 - 25 / 64) / 64)


def test_a_kernel_that_is_wrong_gets_no_time(few_variants, monkeypatch):
    right = attention_speed.stripe_attention

    def wrong(*arguments):
        return right(*arguments[:-1]) + 1 if arguments[-1] == "triton" else right(*arguments)

    monkeypatch.setattr(attention_speed, "stripe_attention", wrong)
    monkeypatch.setattr(attention_speed, "ceilings", lambda device, dtype: None)
    results = bench([ONE_HEAD], (1,), CPU, torch.float32, flex=False)
    status = {row["name"]: row["status"] for row in results["rows"]}
    assert status[LATTICE] == status[WINDOWED] == "failed" and status[SDPA] == "timed"
    assert attention_speed.any_failed(results)
