"""When two decisions make a block compute the same, so that one computation serves both."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sparsesam_deploy.model.attention import ImageState
from sparsesam_deploy.parity.decisions import decided_alike

ROWS = 4
BLOCK = SimpleNamespace(
    decision_names=("ranking", "rows"), routed_halves=[SimpleNamespace(decision_name="rows", num_rows=ROWS)]
)


def state(ranking: list[int], rows: list[int]) -> ImageState:
    tensors = {"ranking": ranking, "rows": rows}
    return ImageState({name: torch.tensor([values], dtype=torch.int32) for name, values in tensors.items()})


@pytest.mark.parametrize(
    ("ranking", "rows", "alike"),
    [
        ([2, 0, 1], [0, 1, 2, 2, 3, 4], True),
        ([2, 0, 1], [3, 0, 1, 1, 2, 4], True),
        ([2, 0, 1], [0, 1, 2, 3, 3, 4], False),
        ([2, 0, 1], [0, 1, 2, 2, 4, 3], False),
        ([2, 0, 1], [0, 1, 2, 2, 4, 4], False),
        ([0, 2, 1], [0, 1, 2, 2, 3, 4], False),
    ],
    ids=["same", "rows-numbered-otherwise", "other-fellows", "another-without-a-row", "one-row-less", "other-ranking"],
)
def test_rows_may_be_numbered_otherwise(ranking, rows, alike):
    assert decided_alike(BLOCK, state([2, 0, 1], [0, 1, 2, 2, 3, ROWS]), state(ranking, rows)) is alike
