"""How each kernel is launched on each GPU: the readable table ``launch_settings.toml``, looked up and replaced."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch

from ..errors import InvalidInput

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHIPPED_SETTINGS = Path(__file__).with_name("launch_settings.toml")
SETTINGS_VARIABLE = "SPARSESAM_LAUNCH_SETTINGS"
"""Environment variable with the path of a table, as ``sparsesam-export tune-kernels`` writes, to use first."""
ANY = "any"


@dataclass(frozen=True)
class Launch:
    """Settings of one kernel on one GPU at one width.

    Attributes:
        kernel: name of the kernel.
        compute_capability: such as ``9.0``; ``any`` where no entry names the GPU.
        width: head_dim of an attention, embed_dim of everything else; 0 for any.
        block: rows (queries, tokens, groups or squares) that one program computes.
        num_warps, num_stages: Triton's launch options.
        measured: what chose these settings: time and circumstances, or ``not measured``.
    """

    kernel: str
    compute_capability: str
    width: int
    block: int
    num_warps: int
    num_stages: int
    measured: str

    def __post_init__(self) -> None:
        for name in ("block", "num_warps"):
            value = getattr(self, name)
            if type(value) is not int or value < 1 or value & (value - 1):
                raise ValueError(f"{name} = {value!r} of {self.kernel} is not a power of two")
        if type(self.num_stages) is not int or self.num_stages < 1:
            raise ValueError(f"num_stages = {self.num_stages!r} of {self.kernel} is not 1 or more")

    @property
    def options(self) -> dict[str, int | bool]:
        """Triton's own launch options; fused multiply-add is pinned, its default differs between versions."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}


def read_settings(path: Path) -> tuple[Launch, ...]:
    """A table of launch settings.

    Raises:
        InvalidInput: the file cannot be read, or an entry has other fields or values than `Launch`.
    """
    try:
        return tuple(Launch(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["launch"])
    except (OSError, ValueError, KeyError, TypeError) as error:  # TOML and Unicode errors are ValueErrors
        raise InvalidInput(
            f"launch settings {path} cannot be used ({error}); write them with `sparsesam-export tune-kernels` or "
            f"unset {SETTINGS_VARIABLE}."
        ) from None


def write_settings(path: Path, entries: Iterable[Launch]) -> None:
    """Write a table that `read_settings` reads."""
    import tomlkit  # the plugin library is built where this is not installed

    document, tables = tomlkit.document(), tomlkit.aot()
    document.add(tomlkit.comment("Measured by `sparsesam-export tune-kernels`. Kernels are launched so where the"))
    document.add(tomlkit.comment(f"environment variable {SETTINGS_VARIABLE} is the path of this file."))
    document.add(tomlkit.nl())
    for entry in entries:
        table = tomlkit.table()
        table.update(asdict(entry))
        tables.append(table)
    document.add("launch", tables)
    path.write_text(tomlkit.dumps(document), encoding="utf-8")


_FORCED: ContextVar[Launch | None] = ContextVar("forced", default=None)


@contextmanager
def forced(launch: Launch) -> Iterator[None]:
    """Launch ``launch.kernel`` with these settings whatever the tables say, in this thread and inside the block."""
    token = _FORCED.set(launch)
    try:
        yield
    finally:
        _FORCED.reset(token)


def launch_settings(kernel: str, device: torch.device, width: int) -> Launch:
    """The settings of ``kernel`` for tensors on ``device``: those `forced`, else see `settings_for`."""
    launch = _FORCED.get()
    if launch is not None and launch.kernel == kernel:
        return launch
    return settings_for(kernel, compute_capability(device), width, os.environ.get(SETTINGS_VARIABLE))


@lru_cache
def settings_for(kernel: str, capability: str, width: int, path: str | None = None) -> Launch:
    """The most specific entry: the user's table before the shipped one, this GPU before any, this width before any."""
    wanted = ((capability, width), (capability, 0), (ANY, width), (ANY, 0))
    for table in (Path(path), SHIPPED_SETTINGS) if path else (SHIPPED_SETTINGS,):
        entries = {
            (entry.compute_capability, entry.width): entry for entry in read_settings(table) if entry.kernel == kernel
        }
        for key in wanted:
            if key in entries:
                return entries[key]
    raise KeyError(f"{SHIPPED_SETTINGS.name} has no entry for {kernel}")


@lru_cache
def compute_capability(device: torch.device) -> str:
    """Such as ``9.0``; ``any`` for the CPU, where kernels are interpreted."""
    if device.type != "cuda":
        return ANY
    return ".".join(map(str, torch.cuda.get_device_capability(device)))
