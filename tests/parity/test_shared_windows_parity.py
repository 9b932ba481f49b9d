"""Shared windows under the block-by-block check: healthy exports pass, a mistake in the shared half is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sparsesam_deploy.errors import CheckFailed
from sparsesam_deploy.model.config import SparsityConfig
from sparsesam_deploy.parity.blocks import first_failure
from tests.export.models import Exported, export

from .faults import Fault, add_to_count, in_attention, node_of, route_flattest, write_broken
from .judging import assert_healthy, judge

SPARSITY = SparsityConfig(0.25, (1.0, 1.0, 0.4, 1.0), (0.3, 1.0, 0.6, 1.0), windowed_routing="share-variance")
DTYPES = ("fp32", "fp16")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    return {dtype: export(tmp_path_factory.mktemp(dtype), SPARSITY, dtype) for dtype in DTYPES}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_healthy_export_is_accepted(dtype: str, exported: dict[str, Exported]):
    assert_healthy(
        exported[dtype], dtype, ["block 0 attention routing", "block 2 attention routing", "block 2 routing"]
    )


def swap_two_cells(model: onnx.ModelProto, block: int) -> None:
    """Two flat cells receive each other's update."""
    name = f"encoder.blocks.{block}.attention.rank_of_row"
    (table,) = (weight for weight in model.graph.initializer if weight.name == name)
    ranks = numpy_helper.to_array(table).copy()
    ranks[-2:] = ranks[[-1, -2]]
    table.CopyFrom(numpy_helper.from_array(ranks, name))


def pool_the_greatest(model: onnx.ModelProto, block: int) -> None:
    node_of(model, block, "ReduceMean").op_type = "ReduceMax"


FAULTS = (
    Fault("flattest-cells-detailed", 0, route_flattest, "attention routing"),
    Fault("two-cells-swapped", 0, swap_two_cells),
    Fault("maximum-for-mean", 0, pool_the_greatest),
    Fault("zeros-for-padding", 0, in_attention({"qkv.bias": np.zeros_like})),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_named(fault: Fault, exported: dict[str, Exported], tmp_path: Path):
    healthy = exported["fp32"]
    parity = judge(healthy, write_broken(tmp_path / "encoder.onnx", healthy.path, [fault]))
    assert first_failure(parity.stages, "fp32").startswith(f"{fault.stage} computes something else: ")


def test_one_cell_too_many_does_not_run(exported: dict[str, Exported], tmp_path: Path):
    """Attention gathers by rows that there are then not."""
    healthy = exported["fp32"]
    damage = add_to_count("num_groups", 1)
    path = write_broken(tmp_path / "encoder.onnx", healthy.path, [Fault("one-too-many", 0, damage)])
    with pytest.raises(CheckFailed, match="ONNX Runtime cannot run"):
        judge(healthy, path)
