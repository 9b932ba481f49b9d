"""README.md as a reader goes through it: commands, and what each is said to print."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOOL = Path(sys.executable).with_name("sparsesam-export")
PRINTED = "build.txt"


@dataclass(frozen=True)
class Command:
    """``sparsesam-export`` with arguments, and the lines that README prints below it."""

    arguments: tuple[str, ...]
    output: tuple[str, ...]


def commands() -> dict[str, Command]:
    """Every command with a prompt before it, by its name."""
    found = {}
    for block in re.findall(r"^```console\n(.*?)^```", README, re.DOTALL | re.MULTILINE):
        for command in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, output = command.replace("\\\n", " ").partition("\n")
            program, name, *arguments = shlex.split(line)
            assert program == "sparsesam-export"
            found[name] = Command((name, *arguments), tuple(output.splitlines()))
    return found


def build(printed: Path) -> None:
    """README's build in the folder of ``printed``, where its output goes; it has our tests in it as a checkout has."""
    (printed.parent / "tests").symlink_to(ROOT / "tests")
    command = [TOOL, *commands()["build"].arguments]
    result = subprocess.run(command, cwd=printed.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    printed.write_text(result.stdout)


def words(line: str) -> str:
    """A line with every number and every length of a rule or gap alike, because these differ from run to run."""
    return re.sub(r"[━─┏┓┳┡┩╇└┘┴│┃ ]+", " ", re.sub(r"[-+]?\d[\d.]*(e[-+]\d+)?", "#", line)).strip()
