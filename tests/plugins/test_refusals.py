"""Shapes and types that the kernels are not for: a status and one line in the log, before anything is launched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from checks.plugin_host import input_lines, node_script, run_host
from checks.plugin_nodes import Node, attention_node, pack_node, unpack_node
from sparsesam_deploy.model.config import FAMILIES, SamConfig

NANO = FAMILIES["nano"]


@pytest.fixture(scope="module")
def lattice() -> Node:
    return attention_node("lattice", NANO, torch.float16, 1)


@pytest.fixture(scope="module")
def packed() -> Node:
    return pack_node("share, variance", NANO, torch.float16, 1)


@pytest.fixture(scope="module")
def quadtree() -> Node:
    return pack_node("share, quadtree", NANO, torch.float16, 1)


def describe(build, node: Node, batch: int = 1) -> list[str]:
    script = [*node_script(node.node_type, node.attributes), *input_lines(node), f"describe {batch}"]
    return run_host(build, script)


def changed(node: Node, attributes: dict | None = None, **inputs: torch.Tensor) -> Node:
    return replace(node, inputs={**node.inputs, **inputs}, attributes={**node.attributes, **(attributes or {})})


def refusal(build, node: Node) -> str:
    lines = describe(build, node)
    assert "configure -1" in lines or "getOutputShapes failed" in lines
    return next(line for line in lines if line.startswith("log 1"))


def test_another_grid(build, lattice):
    node = changed(lattice, qkv=torch.empty(1, 1024, 576, dtype=torch.float16))
    assert "qkv has shape (1, 1024, 576), but the kernels are for a grid of 64x64 tokens" in refusal(build, node)


def test_heads_that_do_not_divide_the_channels(build, lattice):
    assert "576 channels, which are not 3 times num_heads = 5" in refusal(build, changed(lattice, {"num_heads": 5}))


def test_a_width_that_was_not_compiled(build, lattice):
    node = changed(
        lattice, {"num_heads": 2}, rel_pos_h=torch.empty(127, 96).half(), rel_pos_w=torch.empty(127, 96).half()
    )
    assert "no kernel 'relative_terms' of width 96 in fp16; build it with that model" in refusal(build, node)


def test_an_element_type_that_was_not_compiled(build):
    node = unpack_node(NANO, torch.bfloat16, 1)
    assert "no kernel 'unpack' of width 192 in bf16" in refusal(build, node)
    lines = describe(build, node)
    (warning,) = (line for line in lines if line.startswith("log 2"))  # of the formats, where a builder ends
    assert "RoutedMlpUnpack: no kernels for data type 7 of x in this library" in warning
    assert next(line for line in lines if line.startswith("formats")).split()[1] == "00"


def test_an_element_type_without_kernels(build, lattice):
    lines = describe(build, changed(lattice, qkv=torch.empty(1, 4096, 576, dtype=torch.int32)))
    assert next(line for line in lines if line.startswith("formats")).split()[1] == "00"
    assert "configure -1" in lines or "getOutputShapes failed" in lines


def test_keys_that_are_not_the_lattice_said(build, lattice):
    assert "lattice_offsets is 25, which 1664 keys" in refusal(build, changed(lattice, {"lattice_offsets": 25}))


@pytest.mark.parametrize("name", ["rel_pos_h", "rel_index", "perm", "inv_perm"])
def test_a_table_of_another_shape(name, build, lattice):
    node = changed(lattice, **{name: lattice.inputs[name][:-1]})
    assert f"{name} has shape ({len(lattice.inputs[name]) - 1}" in refusal(build, node)


def test_a_table_of_another_rank(build, lattice):
    assert "perm has 2 dimensions, not 1" in refusal(build, changed(lattice, perm=lattice.inputs["perm"][None]))


@pytest.mark.parametrize("inputs", [{"qkv": torch.empty(4096, 576).half()}, {}], ids=["rank 2", "none but qkv"])
def test_malformed_nodes_do_not_crash(inputs, build, lattice):
    """The parser asks for output shapes before anything else has looked at the node."""
    node = changed(lattice, **inputs) if inputs else replace(lattice, inputs={"qkv": lattice.inputs["qkv"]})
    lines = describe(build, node)
    assert "getOutputShapes failed" in lines
    assert any(line.startswith("log 1 sparsesam: StripeAttention: ") for line in lines)


def test_more_images_than_the_grid_has(build, packed):
    x = packed.inputs["x"].expand(70000, -1, -1)
    assert "x has 70000 images, more than 65535" in refusal(build, changed(packed, x=x))


def test_more_groups_than_there_are(build, packed):
    assert "num_groups is 1025, but x of shape (1, 4096, 192)" in refusal(build, changed(packed, {"num_groups": 1025}))


def test_more_squares_than_groups_leave(build, quadtree):
    node = changed(quadtree, {"num_groups": 1001, "num_merged": 6})
    assert "num_merged is 6, but x of shape (1, 4096, 192) has squares of 16 tokens, and num_groups is 1001" in refusal(
        build, node
    )
    assert "configure 0" in describe(build, changed(quadtree, {"num_groups": 1000, "num_merged": 6}))


def test_tokens_that_are_no_whole_squares(build, quadtree):
    node = changed(quadtree, {"num_groups": 0, "num_merged": 1}, x=torch.empty(1, 4092, 192).half())
    assert "num_merged is 1, but x of shape (1, 4092, 192)" in refusal(build, node)


def test_workspace_of_a_quadtree_holds_both_levels_of_scores(build, quadtree):
    lines = describe(build, quadtree, batch=3)
    assert f"workspace {3 * (1024 + 256) * 4}" in lines


def test_a_weight_of_another_width(build, packed):
    assert "weight has shape (191), not (192)" in refusal(build, changed(packed, weight=torch.empty(191).half()))


def test_workspace_and_shapes_are_of_the_largest_batch(build, lattice):
    """A head's terms at 26 of 64 offsets are of every row and every second column or fewer: see the algorithm."""
    lines = describe(build, lattice, batch=8)
    terms = 8 * NANO.num_heads * (32 + 64) * 4096 * 4
    assert "configure 0" in lines and f"workspace {terms}" in lines


def test_a_width_nobody_has(build):
    """head_dim 40 divides nothing that kernels exist for."""
    node = attention_node("window, dense", SamConfig("custom", 40, 1, 1, (0,)), torch.float16, 1)
    assert "no kernel 'window' of width 40" in refusal(build, node)
