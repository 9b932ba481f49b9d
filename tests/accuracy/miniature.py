"""What `tune` needs, so small that a run takes seconds: a network of two blocks, few images, short ladders."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from rich.console import Console

from sparsesam_deploy.accuracy.data.mirrored import Mirrored
from sparsesam_deploy.accuracy.data.subset import Subset
from sparsesam_deploy.accuracy.evaluation.judge import Judge
from sparsesam_deploy.accuracy.evaluation.prompts import parse_prompt
from sparsesam_deploy.accuracy.evaluation.variants import torch_variant
from sparsesam_deploy.accuracy.report.records import Tuning
from sparsesam_deploy.accuracy.tuning import schedule
from sparsesam_deploy.accuracy.tuning.cost_table import CostTable
from sparsesam_deploy.accuracy.tuning.run import TuneInputs, tune
from sparsesam_deploy.accuracy.tuning.schedule import SearchSpace
from sparsesam_deploy.accuracy.tuning.tuner import Budget
from sparsesam_deploy.model.checkpoint import LoadedSam
from sparsesam_deploy.model.config import DENSE, SamConfig
from tests.accuracy.pictures import Pictures
from tests.helpers import random_sam

CPU = torch.device("cpu")
MINIATURE = SamConfig("custom", embed_dim=16, depth=2, num_heads=1, global_blocks=(0,), decoder_mlp_dim=64)
SPACE = SearchSpace(MINIATURE, "share-variance")
SHORT_ATTENTION, SHORT_MLP = {"attention": (1.0, 0.125), "windowed": (1.0, 0.5)}, (1.0, 0.5)
"""MLPs go down to 0.25 by share-variance and to 0.2 by share-quadtree, as with the real ladders."""


@pytest.fixture(scope="module")
def short_ladders():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "ATTENTION", SHORT_ATTENTION)
        patch.setattr(schedule, "MLP", SHORT_MLP)
        yield


@cache
def loaded() -> LoadedSam:
    return LoadedSam(random_sam(MINIATURE), MINIATURE, "0" * 64, "miniature")


def inputs(images: int = 4, space: SearchSpace = SPACE, **choices) -> TuneInputs:
    """Every second image is for the search, the others validate."""
    dense = torch_variant("dense", loaded(), DENSE, CPU)
    judge = Judge(loaded(), dense.encode, [parse_prompt("box")], "best", CPU)
    dataset = Pictures(images, **choices)
    seen, unseen = (Mirrored(Subset(dataset, range(first, images, 2)), 1) for first in (0, 1))
    return TuneInputs(loaded(), space, judge, seen, unseen, CPU, "reference", 0, True)


def run(folder: Path, budget: Budget, table: CostTable | None = None, one: TuneInputs | None = None) -> Tuning:
    """Tune into ``out`` in ``folder``."""
    return tune(one or inputs(), budget, table, folder / "out", Console(quiet=True))
