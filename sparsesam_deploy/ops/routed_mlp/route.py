"""How one routed MLP, or shared attention, chooses its rows, and how many they are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..geometry import GROUP
from ..routing import Selection


@dataclass(frozen=True)
class Route:
    """How one routed MLP chooses its rows.

    Attributes:
        selection: ``variance`` or ``sobel`` rank the 2x2 groups of this block's tokens; ``quadtree`` first ranks
            the 4x4 squares by variance, and the groups of those that are not merged; ``given`` takes ``keep_indices``.
        share: whether unselected groups share one mean row each (else they are passed through).
        num_groups: groups computed in full, for ``variance``, ``sobel`` and ``quadtree``.
        num_merged: squares of least variance, of equal ones the last, which share one row each, for ``quadtree``; 0 for
            all others.
        perm, inv_perm: (N,) raster index of each token and its inverse, for ``sobel``.
        keep_indices: (B or 1, num_keep) tokens to compute, for ``given``.
    """

    selection: Selection
    share: bool
    num_groups: int = 0
    num_merged: int = 0
    perm: Tensor | None = None
    inv_perm: Tensor | None = None
    keep_indices: Tensor | None = None

    def num_rows(self, num_tokens: int) -> int:
        """R: how many rows of ``num_tokens`` go through fc1 and fc2.

        A detailed group has four rows. Of the others each has one, or none without ``share``, and the four groups of
        a merged square have one together.
        """
        if self.selection == "given":
            assert self.keep_indices is not None
            return self.keep_indices.shape[1]
        if not self.share:
            return GROUP * self.num_groups
        return num_tokens // GROUP + (GROUP - 1) * (self.num_groups - self.num_merged)
