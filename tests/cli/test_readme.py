"""README.md says what happens: its commands run, print what stands below them, and nothing in it is too long."""

from __future__ import annotations

import re
import subprocess

import pytest

from .readme import PRINTED, README, ROOT, commands, words

COMMANDS = commands()
SHORTER = {"evaluate": ("--limit", "2")}
"""What a test adds, so that it does not take minutes."""


def test_it_is_one_screen_and_a_half():
    assert len(README.split()) <= 900
    assert set(COMMANDS) == {"build", "evaluate", "benchmark"}


@pytest.mark.parametrize("target", re.findall(r"^make ([\w-]+)", README, re.MULTILINE))
def test_make_knows_what_the_readme_asks_it(target):
    assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True).returncode == 0


def assert_printed(name: str, printed: str) -> None:
    """Every line below the command, but for figures; in the README ``...`` stands for what is left out."""
    assert len(COMMANDS[name].output) >= 2
    found = {words(line) for line in printed.splitlines()}
    assert [line for line in COMMANDS[name].output if line != "..." and words(line) not in found] == []


def test_the_build_prints_what_the_readme_says(built_as_the_readme_says):
    assert_printed("build", (built_as_the_readme_says / PRINTED).read_text())


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"build"}))
def test_other_commands_print_what_the_readme_says(
    name, built_as_the_readme_says, tmp_path, monkeypatch, sparsesam_export
):
    for path in built_as_the_readme_says.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    result = sparsesam_export(*COMMANDS[name].arguments, *SHORTER.get(name, ()))
    assert result.code == 0, result.err
    assert_printed(name, result.out)


@pytest.mark.parametrize("target", re.findall(r"]\((?!https?:)([^)#\s]+)", README))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()
