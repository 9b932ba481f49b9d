"""Two builds: one dense, of which segment_anything itself is the oracle, and a sparse SAM-HQ."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparsesam_deploy.model.config import DENSE, PRESETS
from tests.helpers import TINY
from tests.runtime.builds import Build, make_build


@pytest.fixture(scope="session")
def dense(tmp_path_factory) -> Build:
    """fp32, batches of 1 to 2."""
    pytest.importorskip("tensorrt_rtx", reason="builds are made with tensorrt-rtx")
    return make_build(tmp_path_factory.mktemp("dense"), TINY, DENSE, "fp32", (1, 1, 2))


@pytest.fixture(scope="session")
def sparse_hq(tmp_path_factory) -> Build:
    """SAM-HQ, fp32, one image at a time."""
    pytest.importorskip("tensorrt_rtx", reason="builds are made with tensorrt-rtx")
    hq = replace(TINY, hq=True)
    return make_build(tmp_path_factory.mktemp("hq"), hq, PRESETS["default"], "fp32", (1, 1, 1))
