"""Every benchmark and check starts in the environment of ``make demo``: without pytest and what only the tests need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ONLY_OF_DEV = (
    "tests",
    "pytest",
    "_pytest",
    "xdist",
    "transformers",
    "openvino",
    "timm",
    "segment_anything_hq",
    "triton",
)
COMMANDS = [
    f"{file.parent.name}.{file.stem}"
    for room in ("benchmarks", "checks")
    for file in sorted((ROOT / room).glob("*.py"))
    if '__name__ == "__main__"' in file.read_text()
]

HELP = """
import json, runpy, sys

blocked, commands = json.loads(sys.argv[1]), json.loads(sys.argv[2])
sys.modules.update(dict.fromkeys(blocked))  # importing them raises, and torch, which asks for triton, finds none
sys.argv[1:] = ["--help"]
ends = {}
for command in commands:
    sys.modules.pop(command, None)  # where another command has imported it
    try:
        runpy.run_module(command, run_name="__main__")
    except SystemExit as end:
        ends[command] = end.code
    except BaseException as error:
        ends[command] = repr(error)
print()
print(json.dumps(ends))
"""


def test_every_command_has_help_without_the_packages_of_the_tests():
    """All in one process, because torch takes seconds to import."""
    assert len(COMMANDS) > 8
    command = [sys.executable, "-c", HELP, json.dumps(ONLY_OF_DEV), json.dumps(COMMANDS)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    ends = json.loads(result.stdout.splitlines()[-1])
    assert ends == dict.fromkeys(COMMANDS, 0)
    assert result.stdout.count("Usage: ") == len(COMMANDS)
