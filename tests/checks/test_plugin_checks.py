"""The judge of the plugins: what it calls wrong, shown without a GPU by answers that we make ourselves."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from checks import plugin_checks
from checks.plugin_host import HostFailed
from checks.plugin_nodes import Node, pack_node, unpack_node
from sparsesam_deploy.model.config import FAMILIES

TOLERANCE = 1.5e-3


@pytest.fixture(scope="module")
def node() -> Node:
    return unpack_node(FAMILIES["nano"], torch.float16, 1)


def answered(monkeypatch, answers: dict[str, list[list[Tensor]]]) -> None:
    monkeypatch.setattr(plugin_checks, "enqueue", lambda build, node, modes, folder, prefix: answers)


def judge(node: Node) -> tuple[str, float]:
    return plugin_checks.node_outcome(Path("build"), node, TOLERANCE)


def test_rounded_answers_pass(node, monkeypatch):
    right = [node.expected[0].half()]
    answered(monkeypatch, {"plain": [right], "graph": [right], "two": [right, right]})
    words, error = judge(node)
    assert words == "" and 0 < error < TOLERANCE


def test_nan_in_the_second_context_fails(node, monkeypatch):
    right = [node.expected[0].half()]
    answered(monkeypatch, {"plain": [right], "two": [right, [torch.full_like(right[0], math.nan)]]})
    assert judge(node)[0] == "unpack, two: relative L2 inf"


def test_a_graph_that_was_not_replayed_fails(node, monkeypatch):
    right = [node.expected[0].half()]
    answered(monkeypatch, {"plain": [right], "graph": [[torch.zeros_like(right[0])]]})
    assert judge(node)[0] == "unpack, graph: relative L2 1.0e+00"


def test_rows_may_be_packed_in_another_order(monkeypatch):
    """Groups of equal rank swap rows; what each token receives decides."""
    node = pack_node("skip, given", FAMILIES["nano"], torch.float16, 1)
    rows, row_of_token = node.expected
    last = rows.shape[1] - 1
    swapped = torch.where(row_of_token <= last, last - row_of_token, row_of_token)
    answered(monkeypatch, {"plain": [[rows.flip(1), swapped.int()]]})
    assert judge(node) == ("", 0.0)
    answered(monkeypatch, {"plain": [[rows.flip(1), row_of_token]]})
    assert judge(node)[1] > 0.1


def test_a_host_that_stops_is_a_failure(node, monkeypatch):
    def stop(*arguments):
        raise HostFailed("exit 99\n========= ERROR SUMMARY: 1 error")

    monkeypatch.setattr(plugin_checks, "enqueue", stop)
    words, error = judge(node)
    assert words == "unpack: ========= ERROR SUMMARY: 1 error" and math.isnan(error)


def test_without_a_build_it_says_what_to_build(tmp_path):
    (outcome,) = plugin_checks.checks(tmp_path)
    assert outcome.status == "not run" and "-DSPARSESAM_PLUGIN_TESTS=ON" in outcome.detail
