"""The pages of docs/ against the code that they are about."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

from sparsesam_deploy.cli.main import cli
from sparsesam_deploy.recipe import shipped_recipes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GAP = "…"
"""What stands in docs/errors.md for a part that differs from case to case."""
COMMAND = re.compile(r"^sparsesam-export[^\n]*(?:\\\n[^\n]*)*", re.MULTILINE)


def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def quoted_messages() -> list[str]:
    return re.findall(r"^```text\n(.+)\n```$", text_of("errors"), re.MULTILINE)


@cache
def messages() -> tuple[str, ...]:
    """Every text in the package, with a gap for each value that is put into it, and all sources of the C++ runtime."""
    found = []
    for file in (ROOT / "sparsesam_deploy").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    for file in (ROOT / "engines" / "runtime" / "src").rglob("*.cpp"):
        found.append(re.sub(r'"\s*\n\s*"', "", file.read_text(encoding="utf-8")))  # one text in two lines
    return tuple(found)


@pytest.mark.parametrize("message", quoted_messages())
def test_a_message_that_the_page_explains_is_one_of_the_code(message):
    fragments = [fragment for fragment in message.split(GAP) if re.search(r"\w", fragment)]
    assert max(map(len, fragments)) >= 10, "too little of it is quoted to tell it from others"
    in_order = re.compile(".*?".join(map(re.escape, fragments)), re.DOTALL)
    assert any(in_order.search(text) for text in messages())


def test_the_page_explains_the_messages_of_both_languages():
    assert len(quoted_messages()) >= 25


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_commands_in_a_page_have_only_options_that_there_are(page):
    """Those that begin a line of a block of code."""
    for block in re.findall(r"^```\w+\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for line in COMMAND.findall(block):
            words = line.replace("\\\n", " ").partition("#")[0].split()
            command = cli.commands[words[1]]
            known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
            assert {word for word in words[2:] if word.startswith("-")} <= known, line


def test_every_command_and_recipe_is_listed():
    commands, densities = text_of("commands"), text_of("densities")
    assert set(re.findall(r"^\| \[`([\w-]+)`]", commands, re.MULTILINE)) == set(cli.commands)
    recipes = densities.partition("## Recipes")[2].partition("```sh")[0]
    assert set(re.findall(r"^\| `([\w-]+)`", recipes, re.MULTILINE)) == set(shipped_recipes())


def test_the_menu_has_every_page_once():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2].partition("\nplugins:")[0]
    assert sorted(re.findall(r": ([\w-]+\.md)$", menu, re.MULTILINE)) == sorted(page.name for page in DOCS.glob("*.md"))


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_a_link_leads_to_a_file_of_the_site(page):
    """`make docs` also looks at anchors; this is what a machine without its packages can see."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"]\(([^)#\s]+)", text):
        assert "://" in target or (DOCS / target).is_file(), target
        assert DOCS in (DOCS / target).resolve().parents, f"{target} is outside of the site"


def test_what_a_build_takes_is_what_was_measured():
    measured = {
        case["case"]: case["stages"] for case in json.loads((DOCS / "results" / "export_cost.json").read_text())
    }
    page = text_of("getting-started")
    for case, name in {"nano:fp16": "nano", "vit_b:fp16": "ViT-B", "vit_h:fp16": "ViT-H"}.items():
        cells = (f"{stage['seconds']:.1f} s, {stage['peak_mib'] / 1024:.1f} GiB" for stage in measured[case])
        assert f"| {name} | {' | '.join(cells)} |" in page
