"""``docs/tensorrt.md`` says what the plugin library must implement: it and the operators must not drift apart.

The library's own tables are generated from the operators by ``plugins/node_types.py``.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

from checks.plugin_nodes import PACKS as TRIED
from checks.plugin_nodes import STRIPES
from sparsesam_deploy.ops.function_body import PLUGIN_ATTRIBUTES, NodeInput
from sparsesam_deploy.ops.routed_mlp.onnx import PACKS, UNPACK, UNPACK_INPUTS, Pack
from sparsesam_deploy.ops.stripe_attention.onnx import ATTRIBUTES, PATTERNS
from tests.ops.nodes import FUNCTIONS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tensorrt.md"


def table(heading: str) -> list[list[str]]:
    """Cells of the table below ``heading``, without its head and without backquotes."""
    section = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_nodes_are_those_of_the_code():
    rows = table("Nodes")
    documented = {name: (tuple(i.split()), tuple(a.split()), tuple(o.split())) for name, i, a, o in rows}
    in_code = {pattern.node_type: (pattern.inputs, ATTRIBUTES, ("out",)) for pattern in PATTERNS}
    in_code |= {pack.node_type: (pack.inputs, pack.attributes, ("rows", "row_of_token")) for pack in PACKS}
    in_code[UNPACK] = (UNPACK_INPUTS, (), ("out",))
    assert documented == {name: tuple(map(tuple, parts)) for name, parts in in_code.items()}
    assert set(documented) == set(FUNCTIONS) and len(documented) == len(rows)
    for name, (_, attributes, outputs) in documented.items():
        assert set(FUNCTIONS[name].attribute) == {*attributes, *PLUGIN_ATTRIBUTES}
        assert len(FUNCTIONS[name].output) == len(outputs)


def test_what_plugins_are_tried_with_is_what_they_implement():
    tried = {Pack(rule.selection, rule.share).node_type for rule in TRIED.values()}
    assert tried == {name for name, *_ in table("Nodes") if name.startswith("RoutedMlpPack")}
    assert len(STRIPES) == len(PATTERNS)


def test_every_tensor_is_described_once_with_its_type_and_axes():
    described = {name: (kind, shape.count(",") + 1) for name, kind, shape, _ in table("Tensors")}
    in_code = {name: one for pattern in PATTERNS if not pattern.ranked for name, one in pattern.inputs.items()}
    in_code |= {name: one for pack in PACKS for name, one in pack.inputs.items()} | UNPACK_INPUTS
    in_code |= {"out": NodeInput(3), "rows": NodeInput(3)}
    assert described == {name: ("int32" if one.index else "F", one.rank) for name, one in in_code.items()}
    assert len(described) == len(table("Tensors"))


def test_tables_of_ranked_nodes_have_two_more_axes():
    """As the page says: one for each sequence and one for each head."""
    for ranked in (pattern for pattern in PATTERNS if pattern.ranked):
        ranks = {name: one.rank for name, one in ranked.inputs.items() if name in ("keys", "tiles")}
        assert ranks == ({"keys": 3, "tiles": 4} if ranked.own_tile else {"keys": 3})


def test_namespace_and_version_are_as_written():
    assert PLUGIN_ATTRIBUTES == {"plugin_namespace": "", "plugin_version": "1"}
    text = " ".join(PAGE.read_text().split())
    assert '`plugin_namespace=""` and `plugin_version="1"`' in text


def test_the_librarys_tables_have_every_node():
    spec = importlib.util.spec_from_file_location("node_types", ROOT / "plugins" / "node_types.py")
    node_types = importlib.util.module_from_spec(spec)
    sys.modules["node_types"] = node_types  # where its dataclasses look for their annotations
    spec.loader.exec_module(node_types)
    found = {node.name: tuple(node.inputs) for family in node_types.families() for node in family.types}
    assert found == {name: tuple(inputs.split()) for name, inputs, _, _ in table("Nodes")}
    header = "".join(node_types.node_types_header())
    assert re.findall(r'^    {{"(\w+)",$', header, re.MULTILINE) == list(found)
    assert "constexpr std::int64_t kTile = 64;" in header
