"""The picture, looked at where its panels are: the masks that were compared and the tokens that the encoder keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from sparsesam_deploy.model.config import SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.parity.masks import Answer
from sparsesam_deploy.parity.overlay import draw_overlay
from sparsesam_deploy.parity.samples import Sample
from sparsesam_deploy.parity.verify import Shown
from tests.networks import SMALL, small_encoder
from tests.oracle import GRID, lattice_sequence

HEIGHT, WIDTH = 48, 64  # of the image, so that one of its pixels is one token; rows below it are padding
KEYS, KEPT = 512, {0: 1.0, 1: 0.5, 2: 0.25, 3: 1.0}
"""Keys of the global blocks, and density of each block's MLP."""
SPARSITY = SparsityConfig(KEYS / GRID**2, tuple(KEPT.values()), routing="skip-static")
ONE_STEP = 1.5 / 255


def masks(*boxes: tuple[int, int, int, int]) -> Answer:
    """Of (top, bottom, left, right)."""
    found = np.zeros((len(boxes), HEIGHT, WIDTH), bool)
    for mask, (top, bottom, left, right) in zip(found, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return Answer(found, np.zeros(len(boxes), int))


@dataclass(frozen=True)
class Drawn:
    """The PNG as numbers in [0, 1], its three panels, and what was to be drawn."""

    picture: np.ndarray
    panels: list[Axes]
    shown: Shown

    def looked_up(self, panel: int, row: float, col: float) -> np.ndarray:
        """(HEIGHT, WIDTH, 3): the colour in each pixel of the image, this far down and to the right in it."""
        at, (height, width) = self.panels[panel].get_position(), self.picture.shape[:2]
        rows = ((1 - at.y1) + at.height * (np.arange(HEIGHT) + row) / HEIGHT) * height
        cols = (at.x0 + at.width * (np.arange(WIDTH) + col) / WIDTH) * width
        return self.picture[rows.astype(int)[:, None], cols.astype(int)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Drawn:
    pixels = np.random.default_rng(0).integers(0, 80, (HEIGHT, WIDTH, 3), np.uint8)  # dim, so that dots stand out
    dense = masks((4, 20, 5, 30), (10, 40, 20, 60))
    exported = masks((4, 21, 5, 30), (30, 40, 2, 50))
    sample = Sample("noise.png", pixels, np.zeros((2, 4)), None)
    shown = Shown(sample, dense, exported, SimpleNamespace(mean_iou=0.5))
    encoder = SparseSamEncoder(small_encoder(), SMALL, SPARSITY).eval()
    path, figures = tmp_path_factory.mktemp("overlay") / "overlay.png", []

    def save(figure: Figure, *arguments: object, **options: object) -> None:
        figures.append(figure)
        saved(figure, *arguments, **options)

    saved = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        draw_overlay(SimpleNamespace(first=shown, sparse=encoder, dtype="fp16"), Path(path))
    with Image.open(path) as picture:
        return Drawn(np.array(picture.convert("RGB")) / 255, figures[0].axes[:3], shown)


@pytest.mark.parametrize(("panel", "which"), [(0, "dense"), (1, "exported")])
def test_the_first_two_panels_are_the_image_under_its_masks(drawn, panel, which):
    expected = drawn.shown.sample.pixels / 255
    for mask, colour in zip(getattr(drawn.shown, which).masks, matplotlib.colormaps["tab20"].colors, strict=False):
        expected[mask] = 0.45 * expected[mask] + 0.55 * np.array(colour)
    assert np.abs(drawn.looked_up(panel, 0.5, 0.5) - expected).max() <= ONE_STEP


def first_tokens(count: int) -> np.ndarray:
    """(HEIGHT, WIDTH) bool: the lattice order's first tokens, by the oracle."""
    chosen = np.zeros(GRID**2, bool)
    chosen[lattice_sequence()[:count].numpy()] = True
    return chosen.reshape(GRID, GRID)[:HEIGHT]


def test_the_third_panel_has_a_dot_on_every_key(drawn):
    around = (0.36, 0.5, 0.64)  # dots are not three pixels wide, with blended edges, and tokens about eight
    colours = np.stack([drawn.looked_up(2, row, col) for row in around for col in around])
    distance = np.abs(colours - [0, 1, 1]).max(axis=3).min(axis=0)
    assert np.argwhere((distance < 0.55) != first_tokens(KEYS)).tolist() == []


def test_the_third_panel_shades_tokens_by_how_many_mlps_compute_them(drawn):
    routed = [density for density in KEPT.values() if density < 1]
    share = np.mean([first_tokens(round(density * GRID**2)) for density in routed], axis=0)
    assert set(share.flat) == {0.0, 0.5, 1.0}
    shade = matplotlib.colormaps["inferno"](share)[..., :3]
    expected = 0.65 * shade + 0.35 * drawn.shown.sample.pixels / 255
    assert np.abs(drawn.looked_up(2, 0.2, 0.2) - expected).max() <= 2 * ONE_STEP


def test_titles_say_what_is_shown(drawn):
    titles = [panel.get_title() for panel in drawn.panels]
    assert titles[0] == "dense (PyTorch fp32)"
    assert titles[1] == "sparse (ONNX fp16), mask IoU to dense 0.500"
    assert titles[2].startswith("kept: 12% of global keys (dots), ")
