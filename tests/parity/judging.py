"""Small exports under the block-by-block check."""

from __future__ import annotations

from pathlib import Path

from sparsesam_deploy.parity.blocks import first_failure
from sparsesam_deploy.parity.encoder_check import EncoderCheck, EncoderParity
from sparsesam_deploy.parity.tolerance import TOLERANCES
from tests.export.models import Exported, random_image


def judge(exported: Exported, path: Path) -> EncoderParity:
    """What the check says of ``path``, an edited copy of ``exported`` or the file itself."""
    (parity,) = EncoderCheck(path, exported.encoder)([random_image()], lambda share, words: None)
    return parity


def assert_healthy(exported: Exported, dtype: str, decisions: list[str]) -> None:
    """It is accepted, and these are the decisions that were judged."""
    parity = judge(exported, exported.path)
    assert first_failure(parity.stages, dtype) is None
    assert parity.relative_l2_routed_alike <= TOLERANCES[dtype].embedding
    assert [stage.name for stage in parity.stages if stage.name.endswith("routing")] == decisions
