"""What is declared beside each kernel around a routed MLP: all that launching, compiling and measuring it go by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...routing import Selection


@dataclass(frozen=True)
class RoutedKernel:
    """One form of a kernel.

    Attributes:
        name: unique.
        function: the Triton function.
        constants: what it is compiled for, by embed_dim, without the block that the launch table says.
        live_rows: rows of WIDTH values, or of CHUNK where it has no WIDTH, that are live for one row of the block.
        selection: of the pack that it is measured in; None for what unpacks.
        setting: its name in the launch table, after ``routed_mlp.``, where it is not ``name``.
    """

    name: str
    function: Any
    constants: Callable[[int], dict[str, int]]
    live_rows: int
    selection: Selection | None
    setting: str | None = None

    @property
    def entry(self) -> str:
        """Its name in the launch table."""
        return f"routed_mlp.{self.setting or self.name}"

    def live_values(self, embed_dim: int) -> int:
        """Values that are live for one row of the block."""
        constants = self.constants(embed_dim)
        return self.live_rows * (constants["WIDTH"] if "WIDTH" in constants else constants["CHUNK"])


def whole_rows(embed_dim: int) -> dict[str, int]:
    """The constants of a kernel that holds all channels of a row at a time."""
    return {"CHANNELS": embed_dim, "WIDTH": 1 << (embed_dim - 1).bit_length()}
