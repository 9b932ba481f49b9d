"""The rooms of the package and the order in which imports may climb, read from the code itself.

Imports inside functions and under ``TYPE_CHECKING`` count: they are what a reader follows, and lazy ones would hide a
circle until someone moves them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "sparsesam_deploy"
FLOORS = (
    ("errors", "declaration", "artifacts", "progress", "provenance", "optional", "plugin_library"),
    ("ops",),
    ("model",),
    ("export",),
    ("engines",),
    ("parity",),
    ("runtime",),
    ("kernel_tuning",),
    ("accuracy.data",),
    ("accuracy.report",),
    ("accuracy.evaluation",),
    ("accuracy.tuning",),
    ("serving",),
    ("recipe", "pipeline"),
    ("doctor", "inspect"),
    ("cli",),
    ("",),
)
"""From the lowest up; a module imports from its own floor and from those below. The last is the package's own
``__init__``, which hands out names of all rooms and which none of them may ask.
"""
MAY_IMPORT = {
    PACKAGE: {PACKAGE},
    "benchmarks": {PACKAGE, "benchmarks"},
    "checks": {PACKAGE, "benchmarks", "checks"},
    "examples": {PACKAGE},
    "tests": {PACKAGE, "benchmarks", "checks", "tests"},
}
"""What each folder of Python in the repository may import of it."""
LIGHT = {"click", "rich", "pydantic", "annotated_types", "tomli"}
"""Packages of others that the command line imports before it knows which command it is to run; pydantic for the
declarations that options are made from, tomli on Python 3.10 alone."""


@dataclass(frozen=True)
class Import:
    """One import of a module by another; ``when`` is import, function or typing."""

    importer: str
    imported: str
    line: int
    when: str

    def __str__(self) -> str:
        how = "" if self.when == "import" else f" ({self.when})"
        return f"{self.importer}, line {self.line}, imports {self.imported}{how}"


@cache
def modules(folder: str) -> dict[str, Path]:
    """The Python files of a folder of the repository by module name; packages by their ``__init__``."""
    found = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


class _Finder(ast.NodeVisitor):
    """Collects (imported, names, line, when) of one file, relative imports resolved."""

    def __init__(self, module: str, is_package: bool) -> None:
        self.package = module if is_package else module.rpartition(".")[0]
        self.when, self.found = "import", []

    def _inside(self, node: ast.AST, when: str) -> None:
        before, self.when = self.when, when if self.when == "import" else self.when
        self.generic_visit(node)
        self.when = before

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside(node, "function")

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        self._inside(node, "typing") if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(alias.name, (), node.lineno, self.when) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self.package.split(".")[: len(self.package.split(".")) - node.level + 1] if node.level else []
        target = ".".join([*base, *filter(None, [node.module])])
        self.found.append((target, tuple(alias.name for alias in node.names), node.lineno, self.when))


@cache
def imports(folder: str) -> tuple[Import, ...]:
    """Every import in a folder; names that are modules of the repository are imports of these, not of their package."""
    ours = {name for folder in MAY_IMPORT for name in modules(folder)}

    def of(module: str, file: Path) -> Iterator[Import]:
        finder = _Finder(module, file.name == "__init__.py")
        finder.visit(ast.parse(file.read_text(encoding="utf-8")))
        for target, names, line, when in finder.found:
            inner = [f"{target}.{name}" for name in names if f"{target}.{name}" in ours]
            yield from (Import(module, name, line, when) for name in inner)
            if len(inner) < max(1, len(names)):
                yield Import(module, target, line, when)

    return tuple(found for module, file in modules(folder).items() for found in of(module, file))


def inside() -> list[Import]:
    """Those from the package into the package."""
    return [found for found in imports(PACKAGE) if found.imported.partition(".")[0] == PACKAGE]


def floor(module: str) -> int:
    """The floor of the room that a module is in."""
    place = module.removeprefix(PACKAGE).removeprefix(".")
    for number, rooms in enumerate(FLOORS):
        if any(room and f"{place}.".startswith(f"{room}.") for room in rooms) or place in rooms:
            return number
    raise LookupError(f"{module} is in no room of FLOORS")


def test_every_module_has_a_room():
    empty = f"{PACKAGE}.accuracy"  # a folder of rooms, whose __init__ is a docstring
    assert not [found for found in inside() if empty in (found.importer, found.imported)]
    places = {floor(module) for module in modules(PACKAGE) if module != empty}
    assert len(places) == len(FLOORS) and len(inside()) > 300
    assert {found.when for found in inside()} == {"import", "function", "typing"}


def test_imports_climb():
    wrong = [str(found) for found in inside() if floor(found.imported) > floor(found.importer)]
    assert not wrong, "\n".join(wrong)


def test_no_circle():
    """Not among modules of one room either."""
    graph = defaultdict(set)
    for found in inside():
        graph[found.importer].add(found.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folders_import_what_they_may(folder):
    """A benchmark runs where there are no tests, and a check uses benchmarks, not the other way round."""
    ours = {*MAY_IMPORT, "plugins"}
    used = [found for found in imports(folder) if found.imported.partition(".")[0] in ours]
    wrong = [str(found) for found in used if found.imported.partition(".")[0] not in MAY_IMPORT[folder]]
    assert used and not wrong, "\n".join(wrong)


def loaded_by(module: str) -> set[str]:
    """The modules of others that importing ``module`` imports, itself or through modules of the package."""
    by_importer = defaultdict(list)
    for found in imports(PACKAGE):
        if found.when == "import":
            by_importer[found.importer].append(found.imported)
    waiting, seen = [module], set()
    while waiting:
        if (name := waiting.pop()) not in seen:
            seen.add(name)
            if name.partition(".")[0] == PACKAGE:
                waiting += by_importer[name]
                waiting += [parent for parent in (name.rpartition(".")[0],) if parent]
    return {name.partition(".")[0] for name in seen} - {PACKAGE}


def test_importing_the_package_imports_nothing_of_others():
    assert loaded_by(PACKAGE) <= sys.stdlib_module_names
    assert "torch" in loaded_by(f"{PACKAGE}.model.encoder")


def test_the_command_line_and_the_doctor_start_light():
    """Help, a typing error and the doctor take no second that importing torch takes; what is heavy is in a command."""
    assert loaded_by(f"{PACKAGE}.cli.main") <= sys.stdlib_module_names | LIGHT
    assert "torch" not in loaded_by(f"{PACKAGE}.doctor")


def test_the_plugin_librarys_build_requires_what_it_imports():
    """An isolated build, as pip makes one, has nothing else. annotated_types comes with pydantic."""
    declared = re.search(
        r"^build\.requires = \[(.+?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
    )
    required = set(re.findall(r'"([\w-]+)', declared[1])) | {"annotated_types"}
    used = {found.imported for found in imports("plugins") if found.imported.startswith(f"{PACKAGE}.")}
    assert f"{PACKAGE}.ops.ahead_of_time" in used
    assert {name for module in used for name in loaded_by(module)} - sys.stdlib_module_names <= required
