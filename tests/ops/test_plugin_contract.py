"""``plugins/README.md`` says what the plugin library must implement: it and the code must not drift apart."""

from __future__ import annotations

import re
from pathlib import Path

from checks.plugin_nodes import PACKS as TRIED
from sparsesam_deploy.ops.function_body import PLUGIN_ATTRIBUTES
from sparsesam_deploy.ops.routed_mlp.onnx import PACKS, UNPACK, UNPACK_INPUTS, Pack
from sparsesam_deploy.ops.stripe_attention.onnx import ATTRIBUTES, NODE_INPUTS, PATTERNS
from tests.ops.nodes import FUNCTIONS

README = Path(__file__).parents[2] / "plugins" / "README.md"
SOURCES = README.parent / "src"


def table(heading: str) -> list[list[str]]:
    """Cells of the table below ``heading``, without its head and without backquotes."""
    section = README.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_nodes_are_those_of_the_code():
    rows = table("Nodes")
    documented = {name: (tuple(i.split()), tuple(a.split()), tuple(o.split())) for name, i, a, o in rows}
    in_code = {pattern.node_type: (pattern.inputs, ATTRIBUTES, ("out",)) for pattern in PATTERNS}
    in_code |= {pack.node_type: (pack.inputs, pack.attributes, ("rows", "row_of_token")) for pack in PACKS}
    in_code[UNPACK] = (UNPACK_INPUTS, (), ("out",))
    assert documented == in_code
    assert set(documented) == set(FUNCTIONS) and len(documented) == len(rows)
    for name, (_, attributes, outputs) in documented.items():
        assert set(FUNCTIONS[name].attribute) == {*attributes, *PLUGIN_ATTRIBUTES}
        assert len(FUNCTIONS[name].output) == len(outputs)


def test_plugins_are_those_of_the_library():
    """The sources name a plugin for every node of the table and for no other."""
    sources = "".join(path.read_text() for path in SOURCES.glob("*.cpp"))
    assert set(re.findall(r'"((?:StripeAttention|RoutedMlp)\w*)"', sources)) == {name for name, *_ in table("Nodes")}


def test_what_plugins_are_tried_with_is_what_they_implement():
    tried = {Pack(*form).node_type for form in TRIED.values()}
    assert tried == {name for name, *_ in table("Nodes") if name.startswith("RoutedMlpPack")}


def test_every_tensor_is_described_once():
    described = [name for name, *_ in table("Tensors")]
    used = {name for _, inputs, _, outputs in table("Nodes") for name in (*inputs.split(), *outputs.split())}
    assert sorted(described) == sorted(used)
    assert set(NODE_INPUTS) <= used


def test_namespace_and_version_are_as_written():
    assert PLUGIN_ATTRIBUTES == {"plugin_namespace": "", "plugin_version": "1"}
    text = " ".join(README.read_text().split())
    assert '`plugin_namespace=""` and `plugin_version="1"`' in text
