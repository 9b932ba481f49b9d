"""A journal survives whatever kills its writer, and belongs to one plan."""

from __future__ import annotations

import pytest

from sparsesam_deploy.accuracy.evaluation.journal import Journal
from sparsesam_deploy.errors import InvalidInput

PLAN = {"model": "nano", "densities": (0.3, 0.4)}


def test_what_was_added_is_there_again(tmp_path):
    journal = Journal(tmp_path / "run", PLAN)
    journal.add(0, {"iou": [0.5]})
    journal.add("other", {"iou": []})
    again = Journal(tmp_path / "run", PLAN)
    assert again.done == journal.done == {0, "other"}
    assert list(again.entries()) == [{"index": 0, "iou": [0.5]}, {"index": "other", "iou": []}]


@pytest.mark.parametrize("torn", [1, 5, 12])
def test_a_torn_line_is_done_again(tmp_path, torn):
    path = tmp_path / "run"
    journal = Journal(path, PLAN)
    journal.add(0, {"iou": [0.5]})
    journal.add(1, {"iou": [0.25]})
    path.write_bytes(path.read_bytes()[:-torn])
    again = Journal(path, PLAN)
    assert again.done == {0}
    again.add(1, {"iou": [0.75]})
    assert [entry["iou"] for entry in Journal(path, PLAN).entries()] == [[0.5], [0.75]]


def test_a_torn_plan_is_a_fresh_start(tmp_path):
    path = tmp_path / "run"
    path.write_bytes(b'{"model": "na')
    assert Journal(path, PLAN).done == set()
    assert len(path.read_text().splitlines()) == 1


def test_another_plan_is_refused_by_what_changed(tmp_path):
    Journal(tmp_path / "run", PLAN).add(0, {})
    with pytest.raises(InvalidInput, match=r"another choice of densities; .*--restart"):
        Journal(tmp_path / "run", {**PLAN, "densities": (0.3,)})
    assert Journal(tmp_path / "run", PLAN).done == {0}


def test_only_what_changed_is_named(tmp_path):
    """Tuples come back as lists: that is no change."""
    Journal(tmp_path / "run", PLAN)
    with pytest.raises(InvalidInput, match="another choice of model; "):
        Journal(tmp_path / "run", {**PLAN, "model": "vit_h"})


@pytest.mark.parametrize("text", ["garbage\n", "[1]\n", '{"model": "nano", "densities": [0.3, 0.4]}\n{}\n', "\xff\n"])
def test_a_damaged_file_is_refused(tmp_path, text):
    path = tmp_path / "run"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidInput, match=r"run (is damaged|holds an unfinished run).*--restart"):
        Journal(path, PLAN)
