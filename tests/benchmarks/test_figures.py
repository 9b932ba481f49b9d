"""The figures of docs/algorithm.md: all are written, all are shown, and their masks are the oracle's."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.figures import FIGURES, attends, draw
from tests.oracle import cells, interleaved_sequence, mask_of_lattice, mask_of_tiles, z_curve

ROOT = Path(__file__).parents[2]
DENSITY, GRID = 0.4, 64


def test_every_figure_is_written_and_shown(tmp_path):
    pytest.importorskip("matplotlib")
    draw(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(FIGURES)
    page = (ROOT / "docs" / "algorithm.md").read_text(encoding="utf-8")
    for name in FIGURES:
        assert ElementTree.parse(tmp_path / name).getroot().tag.endswith("}svg")
        assert (ROOT / "docs" / "figures" / name).is_file() and f"(figures/{name})" in page


@pytest.mark.parametrize("order", ["lattice", "interleaved"])
def test_who_attends_to_whom_is_as_the_oracle_has_it(order):
    if order == "lattice":
        mask = mask_of_lattice(DENSITY)
    else:
        mask = mask_of_tiles(interleaved_sequence(cells(GRID)), int(64 * DENSITY), own_tile=True)
    curve = z_curve(GRID).numpy()
    assert np.array_equal(attends(order, DENSITY, GRID), mask.numpy()[np.ix_(curve, curve)])
