"""What every ``routing`` means: `ROUTING_RULES` has a row for each, which rounding, encoder and node types go by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Routing = Literal["share-variance", "share-quadtree", "skip-sobel", "skip-static", "skip-group-rank"]
Selection = Literal["variance", "quadtree", "sobel", "given"]


@dataclass(frozen=True)
class RoutingRule:
    """How the rows of a routed MLP are chosen, and what becomes of the tokens that are not.

    Attributes:
        selection: what a pack node chooses by: a score of its own tokens, or tokens that it is ``given``.
        share: whether unselected tokens share a mean row; else the MLP passes them through unchanged.
        by_ranking: whether given tokens are those that the global blocks' group ranking has first; else they are the
            lattice order's first.
    """

    selection: Selection
    share: bool
    by_ranking: bool = False


ROUTING_RULES: dict[Routing, RoutingRule] = {
    "share-variance": RoutingRule("variance", share=True),
    "share-quadtree": RoutingRule("quadtree", share=True),
    "skip-sobel": RoutingRule("sobel", share=False),
    "skip-static": RoutingRule("given", share=False),
    "skip-group-rank": RoutingRule("given", share=False, by_ranking=True),
}
