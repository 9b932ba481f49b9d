"""The sizes that are the same for every encoder: Segment Anything's own, and the units that tokens are thinned by.

Tokens are in Z-order, in which a group, a square and a patch are consecutive.
"""

GRID_SIZE = 64
"""Side of the grid of tokens."""
WINDOW_SIZE = 14
"""Side of an attention window."""
GROUP = 4
"""Tokens of a 2x2 cell, which an MLP computes one by one or as one row."""
SQUARE = 16
"""Tokens of a 4x4 cell, which ``share-quadtree`` may compute as one row."""
PATCH = 8
"""Side of the cell whose offsets the lattice order takes one after the other."""
TILE = 64
"""Keys that attention is thinned by; in the lattice order the tokens of a patch."""
