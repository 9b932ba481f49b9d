"""Where, when and of what a result was made: one record, the same in every file that holds results."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    import torch

UNKNOWN, NOT_INSTALLED = "unknown", "not installed"
PACKAGES = ("sparsesam-deploy", "torch", "onnx", "onnxscript", "segment-anything", "triton")
ROOT = Path(__file__).parents[1]
"""The repository, where the package is not installed but checked out."""


class Provenance(BaseModel):
    """How to get a result again.

    Attributes:
        command: what was called, for a shell.
        created: UTC, ISO 8601.
        commit: see `checked_out_commit`; files from before it was recorded have none.
        versions: by package, Python's among them.
        machine: ``platform``, ``processor`` and ``device``; of a GPU ``compute_capability``, ``memory_gib``, ``driver``
            and ``cuda``, the version torch was built for, as well.
    """

    command: str
    created: str
    commit: str = UNKNOWN
    versions: dict[str, str]
    machine: dict[str, str]

    @classmethod
    def here(cls, device: torch.device | None = None, commit: str | None = None) -> Provenance:
        """Of this process, which computes on ``device``, the CPU if it is not given.

        ``commit`` is what to call the code where the working tree carries no git folder.
        """
        return cls(
            command=command_line(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            commit=commit or checked_out_commit(),
            versions=package_versions(),
            machine=_machine(device),
        )

    @property
    def date(self) -> str:
        """The day of ``created``."""
        return self.created[:10]


def package_versions() -> dict[str, str]:
    """Versions of what takes part in exports and results; ``not installed`` for what is not there."""
    try:
        import onnxruntime  # two distributions provide it, of which the module alone says which one is used
    except ImportError:
        runtime = NOT_INSTALLED
    else:
        runtime = onnxruntime.__version__
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}, "onnxruntime": runtime}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return NOT_INSTALLED


def command_line() -> str:
    """What was called, to be called again: ``sparsesam-export ...`` or ``python -m module ...``."""
    main = sys.modules["__main__"]
    spec, called = getattr(main, "__spec__", None), sys.argv[0]
    if spec is not None and called == getattr(main, "__file__", None):
        program = ["python", "-m", spec.name.removesuffix(".__main__")]
    else:
        program = [Path(called).name]
    return shlex.join([*program, *sys.argv[1:]])


def checked_out_commit(root: Path = ROOT) -> str:
    """Short hash of the commit that is checked out at ``root``, ``+`` behind it where the working tree differs.

    ``unknown`` where ``root`` is not itself a checkout: the package may be installed somewhere inside another one.
    """
    if not (root / ".git").exists():
        return UNKNOWN
    git = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        found = subprocess.run(git, cwd=root, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return found or UNKNOWN


def driver_version() -> str:
    """Of the NVIDIA driver; ``unknown`` without one, or without the package nvidia-ml-py, which asks it."""
    try:
        import pynvml
    except ImportError:
        return UNKNOWN
    try:
        pynvml.nvmlInit()
        try:
            return pynvml.nvmlSystemGetDriverVersion()
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return UNKNOWN


def _machine(device: torch.device | None) -> dict[str, str]:
    host = {"platform": platform.platform(), "processor": f"{os.cpu_count()} x {_processor()}"}
    if device is None or device.type != "cuda":
        return {**host, "device": "cpu"}
    import torch

    return {
        **host,
        "device": torch.cuda.get_device_name(device),
        "compute_capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        "memory_gib": f"{torch.cuda.get_device_properties(device).total_memory / 2**30:.0f}",
        "driver": driver_version(),
        "cuda": str(torch.version.cuda),
    }


def _processor() -> str:
    """Its name where the system tells it; Linux does in a file."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "processor")
    except OSError:
        return platform.processor() or platform.machine()
