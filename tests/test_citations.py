"""What code, tests, build files and pages say to read is there to be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("sparsesam_deploy", "benchmarks", "checks", "tests", "plugins", "engines/runtime", "export")
SUFFIXES = {".py", ".cpp", ".hpp", ".h", ".S", ".txt", ".cmake", ".in", ".toml", ".j2", ".md"}
PAGE = re.compile(r"[\w./-]*\w\.md\b")
WRITTEN = re.compile(r"README-\w+-\d+\.md")
"""What `triton-server` writes."""
ELSEWHERE = re.compile(r"https?://\S+|arXiv [\d.]+, section \d")
RIDDLES = re.compile(r"\bspecification|\bsection \d|\bthe issue\b", re.IGNORECASE)
"""Words that point at something without saying where it is."""
SOURCE = re.compile(r"`([\w/]+/\w+\.(?:py|cpp|hpp))`")
"""A source file as pages name it: from one of `BASES`, or of another project."""
BASES = (ROOT, ROOT / "sparsesam_deploy")


def lines() -> Iterator[tuple[Path, int, str]]:
    """Every line of the sources with its file and number, without what is on the web or in a paper."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*")) if file.suffix in SUFFIXES]
    for file in (ROOT / "Makefile", ROOT / "pyproject.toml", *files):
        if "build" in file.relative_to(ROOT).parts or file == Path(__file__):
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            yield file, number, ELSEWHERE.sub("", line)


def pages_named(line: str) -> list[str]:
    """The Markdown files that a line names, also as ``"docs" / "accuracy.md"``."""
    return PAGE.findall(line.replace('" / "', "/"))


def is_a_page(name: str, file: Path) -> bool:
    """Whether ``name`` in ``file`` is a page, by its path from the root or, in Markdown, from the file's folder."""
    beside = file.suffix == ".md" and (file.parent / name).is_file()
    return beside or (ROOT / name).is_file() or WRITTEN.fullmatch(name) is not None


def test_every_page_that_is_named_exists():
    found = [(file, number, name) for file, number, line in lines() for name in pages_named(line)]
    assert len({name for *_, name in found if name.startswith("docs/")}) > 3
    assert not [f"{file}, line {number}: {name}" for file, number, name in found if not is_a_page(name, file)]


@pytest.mark.parametrize("name", ["algorithm.md", "docs/nothing.md", "../docs/accuracy.md"])
def test_a_page_that_is_not_there_is_found(name):
    assert pages_named(f"as {name} says") == [name]
    assert not is_a_page(name, ROOT / "tests" / "oracle.py")


def test_nothing_points_at_what_a_reader_cannot_open():
    assert not [f"{file}, line {number}: {line.strip()}" for file, number, line in lines() if RIDDLES.search(line)]


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_every_source_file_that_a_page_names_exists(page):
    named = set(SOURCE.findall(page.read_text(encoding="utf-8")))
    ours = [name for name in named if any((base / name.partition("/")[0]).is_dir() for base in BASES)]
    assert not [name for name in ours if not any((base / name).is_file() for base in BASES)]
