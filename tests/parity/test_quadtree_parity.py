"""share-quadtree under the block-by-block check: two levels of decisions, each judged by the scores it chose."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch

from sparsesam_deploy.model.config import SparsityConfig
from sparsesam_deploy.ops.routing import Counts
from sparsesam_deploy.parity.blocks import first_failure
from sparsesam_deploy.parity.decisions import routing_error
from tests.export.models import Exported, export

from .faults import Fault, add_to_count, node_of, write_broken
from .judging import assert_healthy, judge

SPARSITY = SparsityConfig(0.25, (1.0, 0.2, 0.3, 0.6), routing="share-quadtree")
DTYPES = ("fp32", "fp16")

MLP = SimpleNamespace(share=True, num_own_rows=4, num_rows=4 + 7 + 1, counts=Counts(num_merged=1))
SCORES = torch.tensor([9.0, 8, 7, 6, 5, 4, 3, 2, 10, 9, 9, 9]).repeat_interleave(4)
SQUARES = torch.tensor([30.0, 20.0, 10.0])


def routing(own: int, merged: int) -> torch.Tensor:
    """Rows of 12 groups in 3 squares: group ``own`` in detail, square ``merged`` in one row, the others flat."""
    rows, flat = [], iter(range(4, 11))
    for group in range(12):
        if group // 4 == merged:
            rows += [11] * 4
        else:
            rows += [0, 1, 2, 3] if group == own else [next(flat)] * 4
    return torch.tensor(rows, dtype=torch.int32)


def split(rows: torch.Tensor) -> torch.Tensor:
    """Half of the merged square changes places with half of two other groups, so that counts stay right."""
    rows = rows.clone()
    first, last = rows[8:16].clone(), rows[32:40].clone()
    rows[8:16], rows[32:40] = last, first
    return rows


@pytest.mark.parametrize(
    ("row_of_token", "error"),
    [
        (routing(0, 2), 0.0),
        (routing(1, 2), 1 / 9),
        (routing(7, 2), 7 / 9),
        (routing(0, 1), 1.0),
        (routing(8, 1), 1.0),  # the best of what is left, but the wrong square is merged
        (routing(4, 0), 2.0),
        (split(routing(0, 2)), math.inf),
        (routing(0, 2).clamp_max(10), math.inf),
    ],
    ids=[
        "best",
        "second-best-group",
        "worst-group",
        "second-best-square",
        "second-best-square-best-group",
        "worst-square",
        "a-row-for-parts-of-two-squares",
        "no-square-merged",
    ],
)
def test_a_routing_is_in_error_by_the_worse_of_its_levels(row_of_token, error):
    assert routing_error(SCORES, row_of_token, MLP, SQUARES) == pytest.approx(error, rel=1e-6)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    return {dtype: export(tmp_path_factory.mktemp(dtype), SPARSITY, dtype) for dtype in DTYPES}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_healthy_export_is_accepted(dtype: str, exported: dict[str, Exported]):
    assert_healthy(exported[dtype], dtype, ["block 1 routing", "block 2 routing", "block 3 routing"])


def rank_the_other_way(which: int):
    """Let the block's own function body begin with the lowest scores, of squares (0) or of groups (1)."""

    def damage(model: onnx.ModelProto, block: int) -> None:
        node = node_of(model, block, "RoutedMlpPackShareQuadtree")
        (body,) = (function for function in model.functions if function.name == node.op_type)
        body = onnx.FunctionProto.FromString(body.SerializeToString())
        node.op_type = body.name = f"{body.name}Broken"
        top_k = [inner for inner in body.node if inner.op_type == "TopK"]
        top_k[which].attribute.append(onnx.helper.make_attribute("largest", 0))
        model.functions.append(body)

    return damage


FAULTS = (
    Fault("most-varied-squares-merged", 2, rank_the_other_way(0), "routing"),
    Fault("merged-groups-first", 2, rank_the_other_way(1), "routing"),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_named(fault: Fault, exported: dict[str, Exported], tmp_path: Path):
    healthy = exported["fp32"]
    parity = judge(healthy, write_broken(tmp_path / "encoder.onnx", healthy.path, [fault]))
    assert first_failure(parity.stages, "fp32").startswith(f"{fault.stage} computes something else: ")


@pytest.mark.parametrize(
    "damage", [add_to_count("num_groups", 1), add_to_count("num_merged", -1)], ids=["groups", "squares"]
)
def test_other_numbers_are_no_matter_of_rounding(damage, exported: dict[str, Exported], tmp_path: Path):
    healthy = exported["fp32"]
    path = write_broken(tmp_path / "encoder.onnx", healthy.path, [Fault("one-off", 2, damage, "routing")])
    assert first_failure(judge(healthy, path).stages, "fp32").startswith("block 2 routing computes something else: ")
