"""The figures of docs/algorithm.md, drawn from the package's own tables and from what the nano model decides.

python -m benchmarks.figures docs/figures
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from sparsesam_deploy.artifacts import output_file
from sparsesam_deploy.model import order
from sparsesam_deploy.model.attention import ImageState, key_tables
from sparsesam_deploy.model.checkpoint import load_nano
from sparsesam_deploy.model.config import IMAGE_SIZE, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.model.image import Preprocessed
from sparsesam_deploy.ops.geometry import GRID_SIZE, GROUP, PATCH, SQUARE, TILE, WINDOW_SIZE
from sparsesam_deploy.optional import importing
from sparsesam_deploy.parity.samples import shipped_samples

BLUE, ORANGE, GREEN, PALE = "#0072b2", "#d55e00", "#009e73", "#e6e6e6"
PHOTO = "coins.png"
BLOCK = 6
MLP_DENSITY = 0.4
DETAILED, FLAT, MERGED = range(3)


def attends(token_order: str, density: float, grid_size: int) -> np.ndarray:
    """Whether a query (row) of a global block attends to a key (column), by their places in the stream: (N, N) bool."""
    tables = key_tables(False, density, SparsityConfig(density, order=token_order), grid_size)
    assert tables.keys is not None
    found = np.zeros((grid_size**2,) * 2, bool)
    found[:, tables.keys] = True
    for tile in () if tables.tiles is None else tables.tiles:
        found[np.ix_(tile, tile)] = True
    return found


def on_grid(of_stream: np.ndarray) -> np.ndarray:
    """Values of the tokens of a stream, where the tokens are in the image."""
    grid_size = int(len(of_stream) ** 0.5)
    return of_stream[order.inverse(order.z_order(grid_size))].reshape(grid_size, grid_size)


def cell_kinds(encoder: SparseSamEncoder, image: Preprocessed) -> np.ndarray:
    """How the MLP of block `BLOCK` computes each token, ``DETAILED``, ``FLAT`` or ``MERGED``: (64, 64)."""
    mlp, state = encoder.routed_mlps[BLOCK], ImageState()
    with torch.inference_mode():
        for _ in islice(encoder.streams(image.tensor, state), BLOCK + 2):
            pass
    row = state.decisions[mlp.decision_name][0].numpy()
    kinds = np.where(row < mlp.num_own_rows, DETAILED, FLAT)
    kinds[row >= mlp.num_rows - mlp.counts.num_merged] = MERGED
    return on_grid(kinds)


def draw_order(figure: Any) -> None:
    """The Z-order, the order in which the lattice takes offsets, and the keys that this gives."""
    curve, ranks, keys = figure.subplots(1, 3)
    place = on_grid(np.arange(TILE))
    rows, cols = np.divmod(order.z_order(PATCH), PATCH)
    _cells(curve, place // GROUP % 2, {0: "white", 1: PALE})
    curve.plot(cols, rows, color=BLUE, linewidth=1.5, alpha=0.4)
    _numbers(curve, place)
    curve.set_title("Z-order: place in the stream.\n4 in a row are a group (shaded in turn)", fontsize=9)

    rank = on_grid(order.inverse(order.lattice_offsets()))
    ranks.imshow(-rank, cmap="Blues", alpha=0.7)
    _numbers(ranks, rank)
    ranks.set_title("lattice: the turn of each offset\nin every 8x8 patch", fontsize=9)

    offsets = {4: BLUE, 16: "#56b4e9", 32: "#b3dcf2"}
    side = 2 * PATCH
    shade = np.zeros((side, side), int)
    for count in sorted(offsets, reverse=True):
        chosen = key_tables(False, count / TILE, SparsityConfig(count / TILE), side).keys
        shade[np.divmod(order.z_order(side)[chosen], side)] = count
    _cells(keys, shade, {0: "white", **offsets})
    _lines(keys, side, PATCH)
    words = ", ".join(f"{count / TILE:g}" for count in offsets)
    keys.set_title(f"keys in 4 patches at densities\n{words} (dark to pale)", fontsize=9)


def draw_cells(figure: Any) -> None:
    """Groups, squares and patches; windows and their padding."""
    units, windows = figure.subplots(1, 2)
    side = 2 * PATCH
    place = on_grid(np.arange(side**2))
    for size, colour, width in ((GROUP, "#999999", 0.8), (SQUARE, ORANGE, 1.6), (TILE, BLUE, 2.8)):
        _borders(units, place // size, color=colour, linewidth=width)
    _numbers(units, place, 5)
    _bare(units, side)
    units.set_title("16x16 tokens in Z-order:\ngroups 2x2 (grey), squares 4x4 (orange), patches 8x8 (blue)", fontsize=9)

    members, _ = order.windows(GRID_SIZE, WINDOW_SIZE)
    per_side = int(len(members) ** 0.5)
    by_window = members.reshape(per_side, per_side, WINDOW_SIZE, WINDOW_SIZE)
    padding = by_window.swapaxes(1, 2).reshape((per_side * WINDOW_SIZE,) * 2) == GRID_SIZE**2
    _cells(windows, padding.astype(int), {0: "white", 1: ORANGE})
    _lines(windows, len(padding), WINDOW_SIZE)
    windows.set_title(
        f"{len(members)} windows of {WINDOW_SIZE}x{WINDOW_SIZE} over {GRID_SIZE}x{GRID_SIZE} tokens:\n"
        f"{int(padding.sum())} of {padding.size} slots are padding (orange)",
        fontsize=9,
    )


def draw_stripe(figure: Any) -> None:
    """Keys of a query on the grid, and who attends to whom on a small grid."""
    panels = figure.subplots(2, 2)
    query = int(order.inverse(order.z_order(GRID_SIZE))[37 * GRID_SIZE + 41])
    for axes, token_order in zip(panels[0], ("lattice", "interleaved"), strict=True):
        found = attends(token_order, 0.4, GRID_SIZE)
        shared = found.all(0)
        _cells(axes, on_grid(np.where(shared, 1, np.where(found[query], 2, 0))), {0: "white", 1: BLUE, 2: ORANGE})
        col, row = order.z_order(GRID_SIZE)[query] % GRID_SIZE, order.z_order(GRID_SIZE)[query] // GRID_SIZE
        axes.plot(col, row, marker="o", color="black", markersize=5, markerfacecolor="none")
        words, own = f"{int(shared.sum())} of {GRID_SIZE**2} keys (blue)", int((found[query] & ~shared).sum())
        words += f",\n{own} more of the own tile (orange)" if own else ""
        axes.set_title(f"{token_order}, density 0.4: {words}", fontsize=9)
    side = 2 * PATCH
    tiles = key_tables(False, 0.25, SparsityConfig(0.25, order="interleaved"), side).tiles
    assert tiles is not None
    for axes, token_order, sequence, words in (
        (panels[1, 0], "lattice", np.arange(side**2), "place in the stream"),
        (panels[1, 1], "interleaved", tiles.flatten(), "place in the order's sequence"),
    ):
        found = attends(token_order, 0.25, side)[np.ix_(sequence, sequence)]
        axes.imshow(found, cmap="Blues", vmin=0, vmax=1.3, interpolation="nearest")
        axes.set(xlabel=f"key, {words}", ylabel=f"query, {words}")
        axes.set_xticks(range(0, side**2 + 1, TILE))
        axes.set_yticks(range(0, side**2 + 1, TILE))
        axes.set_title(f"{token_order}, density 0.25, on a grid of {side}x{side}:\nwho attends to whom", fontsize=9)


def draw_groups(figure: Any) -> None:
    """What the nano model's MLP computes of a photo, by both routings that share rows."""
    sample = next(sample for sample in shipped_samples() if sample.name == PHOTO)
    image, loaded = sample.preprocessed(), load_nano()
    height, width = image.original_size
    frame = IMAGE_SIZE / max(image.original_size)  # pixels of the input for one of the photo
    for axes, routing in zip(figure.subplots(1, 2), ("share-variance", "share-quadtree"), strict=True):
        sparsity = SparsityConfig(mlp_density=MLP_DENSITY, routing=routing)
        encoder = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, sparsity)
        kinds = cell_kinds(encoder, image)
        axes.set_facecolor("black")
        axes.imshow(sample.pixels, extent=(0, width * frame, height * frame, 0), interpolation="none")
        tint = np.zeros((*kinds.shape, 4))
        for kind, (colour, alpha) in {FLAT: ((0.0, 0.45, 0.7), 0.5), MERGED: ((0.84, 0.37, 0.0), 0.5)}.items():
            tint[kinds == kind] = (*colour, alpha)
        axes.imshow(tint, extent=(0, IMAGE_SIZE, IMAGE_SIZE, 0), interpolation="nearest")
        axes.set(xlim=(0, IMAGE_SIZE), ylim=(IMAGE_SIZE, 0), xticks=[], yticks=[])
        detailed, flat, merged = (int((kinds == kind).sum()) for kind in (DETAILED, FLAT, MERGED))
        words = [f"{detailed // GROUP} groups detailed (clear)", f"{flat // GROUP} flat (blue)"]
        words += [f"{merged // SQUARE} squares merged (orange)"] if merged else []
        axes.set_title(f"{routing}: {encoder.routed_mlps[BLOCK].num_rows} rows\n{', '.join(words)}", fontsize=9)


def _bare(axes: Any, side: int) -> None:
    axes.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5), xticks=[], yticks=[], aspect="equal")


def _cells(axes: Any, values: np.ndarray, colours: dict[int, str]) -> None:
    """A square of cells, coloured by value, with thin lines between them."""
    from matplotlib.colors import to_rgb

    shown = np.array([[to_rgb(colours[value]) for value in row] for row in values.tolist()])
    axes.imshow(shown, interpolation="nearest")
    _bare(axes, len(values))


def _lines(axes: Any, side: int, step: int) -> None:
    for place in range(0, side + 1, step):
        axes.axhline(place - 0.5, color="black", linewidth=0.7)
        axes.axvline(place - 0.5, color="black", linewidth=0.7)


def _borders(axes: Any, values: np.ndarray, **style: Any) -> None:
    """Lines where neighbours differ."""
    for row, col in zip(*np.nonzero(values[1:] != values[:-1]), strict=True):
        axes.plot([col - 0.5, col + 0.5], [row + 0.5] * 2, solid_capstyle="butt", **style)
    for row, col in zip(*np.nonzero(values[:, 1:] != values[:, :-1]), strict=True):
        axes.plot([col + 0.5] * 2, [row - 0.5, row + 0.5], solid_capstyle="butt", **style)


def _numbers(axes: Any, values: np.ndarray, size: float = 7) -> None:
    for (row, col), value in np.ndenumerate(values):
        axes.text(col, row, str(value), ha="center", va="center", fontsize=size)
    _bare(axes, len(values))


FIGURES: dict[str, tuple[Callable[[Any], None], tuple[float, float]]] = {
    "order.svg": (draw_order, (10, 3.8)),
    "cells.svg": (draw_cells, (9, 4.9)),
    "stripe.svg": (draw_stripe, (9, 9.4)),
    "groups.svg": (draw_groups, (9.5, 5.2)),
}
"""What draws each file, and its size in inches."""


def draw(folder: Path) -> None:
    """Write all figures; the same bytes from the same code and libraries.

    Raises:
        EnvironmentProblem: matplotlib is not installed.
    """
    with importing("matplotlib", "the figures"):
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

    for name, (of, size) in FIGURES.items():
        with matplotlib.rc_context({"svg.hashsalt": name}), output_file(folder / name) as partial:
            figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.12), facecolor="white")
            of(figure)
            figure.savefig(partial, format="svg", metadata={"Date": None})


@click.command(help=__doc__.splitlines()[0])
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def main(folder: Path) -> None:
    draw(folder)


if __name__ == "__main__":
    main()
