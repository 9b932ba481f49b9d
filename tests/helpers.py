"""Segment Anything models with random weights, the benchmarks' own and a tiny one, and how refusals are checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.random_weights import random_sam, random_tensor, random_tensors, save_random_checkpoint
from sparsesam_deploy.errors import CheckpointError
from sparsesam_deploy.model.config import SamConfig

__all__ = ["TINY", "assert_refused", "random_sam", "random_tensor", "random_tensors", "save_random_checkpoint"]

TINY = SamConfig("custom", embed_dim=64, depth=4, num_heads=2, global_blocks=(1, 3), decoder_mlp_dim=128)


def assert_refused(load: Callable[[Path], object], path: Path, message: str) -> None:
    """Check that loading ``path`` raises one sentence about it that starts with ``message``."""
    with pytest.raises(CheckpointError, match=re.escape(f"checkpoint {path} {message}")) as caught:
        load(path)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
