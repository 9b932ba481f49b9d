"""``sparsesam-export doctor``: what is installed, and what a build would miss."""

from __future__ import annotations

import click
from rich.markup import escape

from . import options
from .console import console, example, print_json


@click.command(
    short_help="Say what is installed and what a build would miss.", epilog=example("sparsesam-export doctor --json")
)
@options.as_json
def doctor(as_json: bool) -> int:
    """Say what is installed and what a build would miss: packages, builders, GPU, plugin library, memory, disk."""
    from ..doctor import examine

    findings = examine()
    if as_json:
        print_json({"findings": [vars(finding) for finding in findings]})
    else:
        colors = {"ok": "green", "note": "yellow", "problem": "red"}
        width = max(len(finding.name) for finding in findings)
        for finding in findings:  # never wrapped: a remedy is there to be copied
            mark = f"[{colors[finding.status]}]{finding.status:<7}[/]"
            console.print(f"{mark}  {escape(finding.name):<{width}}  {escape(finding.value)}", soft_wrap=True)
            if finding.remedy:
                console.print(f"{'':{width + 11}}-> {escape(finding.remedy)}", soft_wrap=True)
    return 3 if any(finding.status == "problem" for finding in findings) else 0
