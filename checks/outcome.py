"""How a check ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """One check: ``status`` is passed, failed or not run."""

    check: str
    status: str
    detail: str
