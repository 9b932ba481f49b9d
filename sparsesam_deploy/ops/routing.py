"""What every ``routing`` means: how an MLP chooses its rows, and how many groups and rows a density stands for.

`ROUTING_RULES` has an entry for each routing. Encoder, node types, tuning and tests all read it from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..errors import DensityError
from .geometry import GROUP, SQUARE
from .rounding import nearest, rounded_up

if TYPE_CHECKING:
    from torch import Tensor

Routing = Literal["share-variance", "share-quadtree", "skip-sobel", "skip-static", "skip-group-rank"]
Selection = Literal["variance", "quadtree", "sobel", "given"]

LEAST_OF_GROUPS = 1 / GROUP
"""Density of one row for each 2x2 group."""
LEAST_OF_SQUARES = 1 / GROUP - (GROUP - 1) / (2 * SQUARE)
"""Density of one row for each 4x4 square in one half of the tokens, and for each 2x2 group in the other."""


class Counts(NamedTuple):
    """What a routed MLP computes: detailed 2x2 groups, merged 4x4 squares, and given tokens."""

    num_groups: int = 0
    num_merged: int = 0
    num_given: int = 0


def shared_groups(density: float, num_tokens: int, name: str = "mlp_density") -> int:
    """Number of detailed 2x2 groups when the flat ones share a row: 4 n + (N / 4 - n) = d N.

    ``name`` is the density's, for the error: ``mlp_density`` or ``windowed_density``.

    Raises:
        DensityError: ``density`` is less than what sharing comes to.
    """
    if not LEAST_OF_GROUPS <= density <= 1:
        other = "routing share-quadtree" if name == "mlp_density" else "windowed_routing stripe"
        raise DensityError(
            f"{name} {density:g} is below {LEAST_OF_GROUPS:g}, where every 2x2 group already shares one row; "
            f"use at least {LEAST_OF_GROUPS:g} or {other}."
        )
    return _detailed_for_merged(density, num_tokens)


def _detailed_for_merged(density: float, num_tokens: int) -> int:
    """How many more groups are detailed than squares are merged, each three rows more or less than one a group."""
    return nearest((density - 1 / GROUP) * num_tokens / (GROUP - 1))


def shared_quadtree(density: float, num_tokens: int) -> Counts:
    """Numbers of detailed 2x2 groups and of merged 4x4 squares: 4 n + (N / 4 - 4 m - n) + m = d N.

    Half of the squares are merged, or all that the detailed groups leave whole.

    Raises:
        DensityError: as `shared_groups`.
    """
    if not LEAST_OF_SQUARES <= density <= 1:
        raise DensityError(
            f"mlp_density {density:g} is below {LEAST_OF_SQUARES:g}, where half of the 4x4 squares and every other 2x2 "
            f"group already share a row; use at least {LEAST_OF_SQUARES:g} or a skip routing."
        )
    extra = _detailed_for_merged(density, num_tokens)
    num_merged = min(num_tokens // (2 * SQUARE), (num_tokens // GROUP - extra) // (GROUP + 1))
    return Counts(extra + num_merged, num_merged)


def kept_tokens(density: float, num_tokens: int, whole_groups: bool) -> int:
    """Number of tokens that go through a ``skip`` MLP, a multiple of 4 where groups are kept whole.

    Raises:
        DensityError: that is none.
    """
    unit = GROUP if whole_groups else 1
    kept = unit * nearest(density * num_tokens / unit)
    if kept < 1:
        least = rounded_up(0.5 * unit / num_tokens)
        raise DensityError(f"mlp_density {density:g} keeps no token of {num_tokens}; use at least {least}.")
    return kept


@dataclass(frozen=True)
class RoutingRule:
    """How the rows of a routed MLP are chosen, how many, and what becomes of the tokens that are not.

    Attributes:
        selection: how a pack node chooses: by a score of its own tokens, or not at all where they are ``given``.
        share: whether unselected tokens share a mean row; else the MLP passes them through unchanged.
        counts: numbers of groups, squares and tokens that an ``mlp_density`` of a number of tokens stands for; raises
            DensityError for a density that is too low.
        least: the lowest density of a ``share`` routing, at which every token shares its row. ``skip`` routings have 0
            here, though 0 itself is too low for them too.
        by_ranking: whether given tokens are the first in the group ranking of the global blocks; else they are the
            first in the lattice order.
    """

    selection: Selection
    share: bool
    counts: Callable[[float, int], Counts]
    least: float = 0.0
    by_ranking: bool = False


def _detailed(density: float, num_tokens: int) -> Counts:
    return Counts(num_groups=shared_groups(density, num_tokens))


def _kept_groups(density: float, num_tokens: int) -> Counts:
    return Counts(num_groups=kept_tokens(density, num_tokens, whole_groups=True) // GROUP)


def _given(density: float, num_tokens: int) -> Counts:
    return Counts(num_given=kept_tokens(density, num_tokens, whole_groups=False))


ROUTING_RULES: dict[Routing, RoutingRule] = {
    "share-variance": RoutingRule("variance", share=True, counts=_detailed, least=LEAST_OF_GROUPS),
    "share-quadtree": RoutingRule("quadtree", share=True, counts=shared_quadtree, least=LEAST_OF_SQUARES),
    "skip-sobel": RoutingRule("sobel", share=False, counts=_kept_groups),
    "skip-static": RoutingRule("given", share=False, counts=_given),
    "skip-group-rank": RoutingRule("given", share=False, counts=_given, by_ranking=True),
}
SHARING = tuple(routing for routing, rule in ROUTING_RULES.items() if rule.share)
"""Those by which no token is left out, which `tune` may search."""


def rule_of(selection: Selection) -> RoutingRule:
    """The first rule that chooses so."""
    return next(rule for rule in ROUTING_RULES.values() if rule.selection == selection)


@dataclass(frozen=True)
class Route:
    """How one routed MLP, or shared attention, chooses its rows.

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

    @classmethod
    def of(cls, rule: RoutingRule, counts: Counts, **tables: Tensor) -> Route:
        """The route of a rule; ``tables`` has by name the tables that its selection needs."""
        return cls(rule.selection, rule.share, counts.num_groups, counts.num_merged, **tables)

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
