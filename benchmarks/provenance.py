"""Which code a figure was measured on."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str:
    """Short hash of the checked-out commit, ``+`` behind it where the working tree differs."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
