"""The picture: dense masks, sparse masks and the tokens that were kept, side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..model.attention import ImageState
from ..model.config import IMAGE_SIZE, PATCH_SIZE
from ..model.encoder import SparseSamEncoder
from ..model.image import Preprocessed
from ..optional import importing
from .verify import Verifier


def draw_overlay(verifier: Verifier, path: Path) -> None:
    """Draw the first image that ``verifier`` judged as a PNG.

    Raises:
        EnvironmentProblem: matplotlib is not installed.
    """
    with importing("matplotlib", "the overlay"):
        from matplotlib import colormaps
        from matplotlib.figure import Figure

    tab20 = colormaps["tab20"]
    colours = [np.array(tab20(number)[:3]) for number in range(tab20.N)]
    shown = verifier.first
    assert shown is not None  # after a verification
    image = shown.sample.preprocessed()
    detail, keys = kept_tokens(verifier.sparse, image)
    height, width = image.original_size
    figure = Figure(figsize=(15, 1.1 + 4.6 * min(height / width, 1.5)), layout="constrained")
    axes = figure.subplots(1, 3)
    sparsity, effective = verifier.sparse.sparsity, verifier.sparse.effective_density
    for axis, title, masks in (
        (axes[0], "dense (PyTorch fp32)", shown.dense.masks),
        (
            axes[1],
            f"sparse (ONNX {verifier.dtype}), mask IoU to dense {shown.total.mean_iou:.3f}",
            shown.exported.masks,
        ),
    ):
        axis.imshow(_blend(shown.sample.pixels, masks, colours))
        axis.set_title(title)
    axes[2].imshow(shown.sample.pixels)
    scale = max(height, width) / IMAGE_SIZE
    extent = (0, IMAGE_SIZE * scale, IMAGE_SIZE * scale, 0)
    if detail is not None:
        drawn = axes[2].imshow(
            detail, extent=extent, cmap="inferno", alpha=0.65, vmin=0, vmax=1, interpolation="nearest"
        )
        figure.colorbar(drawn, ax=axes[2], label="share of routed MLPs that compute the token in full", shrink=0.85)
    if keys is not None:
        row, col = np.nonzero(keys)
        axes[2].scatter((col + 0.5) * PATCH_SIZE * scale, (row + 0.5) * PATCH_SIZE * scale, s=3, c="cyan", linewidths=0)
    axes[2].set_xlim(0, width)
    axes[2].set_ylim(height, 0)
    axes[2].set_title(
        f"kept: {effective['global_attention']:.0%} of global keys (dots), {effective['mlp']:.0%} of MLP rows"
    )
    for axis in axes:
        axis.set_axis_off()
    figure.suptitle(
        f"{shown.sample.name}: {sparsity.order}, {sparsity.routing}, "
        f"attention density {_short(sparsity.attention_density)}, MLP density {_short(sparsity.mlp_density)}"
    )
    figure.savefig(path, dpi=110, format="png")


@torch.inference_mode()
def kept_tokens(encoder: SparseSamEncoder, image: Preprocessed) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Which tokens of the 64x64 grid the encoder keeps.

    Returns:
        The share of routed MLPs that compute each token in full (64, 64), None when no MLP is routed; and the keys
        of the first global block, (64, 64) bool, None when they are all or differ by head.
    """
    detail = None
    if mlps := encoder.routed_mlps:
        state = ImageState()
        deque(encoder.streams(image.tensor, state), maxlen=0)
        full = torch.stack([state.decisions[mlp.decision_name] < mlp.num_own_rows for mlp in mlps], 2)
        detail = encoder.to_grid(full.float().mean(2, keepdim=True))[0, :, :, 0].numpy()
    keys = encoder.blocks[min(encoder.config.global_blocks)].attention.static.keys
    if keys is None or encoder.sparsity.order == "ranked":
        return detail, None
    kept = torch.zeros(1, encoder.perm.numel(), 1)
    kept[:, torch.from_numpy(keys.copy()).long()] = 1
    return detail, encoder.to_grid(kept)[0, :, :, 0].bool().numpy()


def _blend(pixels: np.ndarray, masks: np.ndarray, colours: Sequence[np.ndarray]) -> np.ndarray:
    picture = pixels.astype(np.float64) / 255
    for index, mask in enumerate(masks):
        picture[mask] = 0.45 * picture[mask] + 0.55 * colours[index % len(colours)]
    return picture


def _short(density: float | tuple[float, ...]) -> str:
    return f"{density:g}" if isinstance(density, (int, float)) else "per block"
