"""The fuzz targets on their seeds and a bounded number of mutations, under address and undefined sanitisers."""

from __future__ import annotations

import pytest

from tests.engines.runtime.conftest import run
from tests.engines.runtime.corpus import TARGETS, write_corpus

RUNS = {"manifest": 4000, "png": 4000, "jpeg": 4000, "prompts": 20_000, "image": 40}
"""Two seconds or less of each; `engines/runtime/README.md` says how to fuzz for longer with libFuzzer."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    base = tmp_path_factory.mktemp("corpus") / "seeds"
    write_corpus(base)
    return base


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_mutations(sanitised_build, corpus, target):
    strict = {"ASAN_OPTIONS": "max_allocation_size_mb=600"}  # nothing that small may ask for more
    done = run(sanitised_build / "tests" / f"fuzz_{target}", corpus / target, RUNS[target], env=strict)
    assert done.returncode == 0, done.stderr[-3000:]
    files = len(list((corpus / target).iterdir()))
    assert files > 5
    assert done.stdout == f"{files} files and {RUNS[target]} mutations\n"
