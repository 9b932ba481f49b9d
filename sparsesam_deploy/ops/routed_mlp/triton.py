"""``routed_mlp_pack`` and ``routed_mlp_unpack`` as Triton kernels; `reference` defines what they compute.

The residual stream x is large, scores are small: one kernel reduces x to a score per group, the next ranks the groups
and normalises again only the rows it writes; ``quadtree`` has one between them that ranks its squares. norm2(x) is
never stored, nothing is sorted, and nothing waits for the GPU. Where a kernel says what it moves, "the stream" is x
once, N * C elements per image.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor

from ...errors import InvalidInput
from ..geometry import GROUP, SQUARE
from ..launch import launch_settings
from ..routing import Route
from ..triton_language import require_launchable, triton
from .kernels.declaration import RoutedKernel
from .kernels.pack import GIVEN, PACK_SHARE, PACK_SKIP, UNPACK
from .kernels.quadtree import QUADTREE_MERGE, QUADTREE_PACK, QUADTREE_SCORE
from .kernels.scores import SCORE, SOBEL

KERNELS = (
    *(SCORE, SOBEL, PACK_SHARE, PACK_SKIP),
    *(QUADTREE_SCORE, QUADTREE_MERGE, QUADTREE_PACK),
    *(GIVEN, UNPACK),
)
"""All that is launched here, which the plugin library embeds and `tune-kernels` measures."""


def routed_mlp_pack(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, route: Route) -> tuple[Tensor, Tensor]:
    """Normalise, score, select and pack the rows that go through the MLP.

    Groups are ordered by descending score, equal scores by index; NaN counts as the highest score, as in torch's sort.
    Entries of ``perm``, ``inv_perm`` and ``keep_indices`` are not checked, since that would mean waiting for the GPU:
    they must be in 0..N-1, each at most once.

    Args:
        x: (B, N, C) residual stream in Z-order, contiguous; any float dtype.
        weight, bias, epsilon: norm2, (C,) of any float dtype; its statistics are float32.
        route: how rows are chosen. For ``sobel`` the four tokens of a group must be a 2x2 cell of the square grid.

    Returns:
        rows (B, R, C) in the dtype of ``x`` and row_of_token (B, N) int32, as the reference's.

    Raises:
        InvalidInput: a tensor is not contiguous, or has another shape or device than x asks for; ``num_groups`` is
            not between 0 and N / 4, or ``num_merged`` not between 0 and what they leave whole; x is on the CPU.
        EnvironmentProblem: Triton is not installed.
    """
    _require(x, weight=(weight, x.shape[2:]), bias=(bias, x.shape[2:]))
    norm = (x, weight, bias, epsilon)
    if route.selection == "given":
        return _pack_given(*norm, route)
    batch, num_tokens, channels = x.shape
    _require_counts(num_tokens, route)
    num_groups, num_merged = route.num_groups, route.num_merged
    num_all, num_squares = num_tokens // GROUP, num_tokens // SQUARE
    num_rows = route.num_rows(num_tokens)
    rows = torch.empty((batch, num_rows, channels), dtype=x.dtype, device=x.device)
    row_of_token = torch.empty((batch, num_tokens), dtype=torch.int32, device=x.device)
    scores = torch.empty((batch, num_all), dtype=torch.float32, device=x.device)
    pack = (*norm, scores, rows, row_of_token)

    if route.selection == "quadtree":
        both = (scores, torch.empty((batch, num_squares), dtype=torch.float32, device=x.device), num_squares)
        _launch(QUADTREE_SCORE, num_squares, x, *norm, *both)
        _launch(QUADTREE_MERGE, num_squares, x, *both, num_merged)
        _launch(QUADTREE_PACK, num_squares, x, *pack, num_squares, num_groups, num_merged, num_rows)
        return rows, row_of_token

    if route.selection == "variance":
        _launch(SCORE, num_all, x, *norm, scores, num_all)
    else:
        assert route.perm is not None and route.inv_perm is not None
        _require(x, perm=(route.perm, (num_tokens,)), inv_perm=(route.inv_perm, (num_tokens,)))
        _launch(SOBEL, num_all, x, x, route.perm, route.inv_perm, scores, num_all, isqrt(num_tokens))
    _launch(PACK_SHARE if route.share else PACK_SKIP, num_all, x, *pack, num_all, num_groups, num_rows)
    return rows, row_of_token


def _pack_given(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, route: Route) -> tuple[Tensor, Tensor]:
    """`routed_mlp_pack` of the tokens in ``route.keep_indices``."""
    assert route.keep_indices is not None
    (batch, num_tokens, channels), num_rows = x.shape, route.keep_indices.shape[1]
    keep = route.keep_indices.contiguous()
    _require(x, keep_indices=(keep, (1 if len(keep) == 1 else batch, num_rows)))
    rows = torch.empty((batch, num_rows, channels), dtype=x.dtype, device=x.device)
    row_of_token = torch.full((batch, num_tokens), num_rows, dtype=torch.int32, device=x.device)
    given = (keep, keep.expand(batch, -1).stride(0), rows, row_of_token, num_tokens, num_rows)
    _launch(GIVEN, num_rows, x, x, weight, bias, epsilon, *given)
    return rows, row_of_token


def routed_mlp_unpack(x: Tensor, update: Tensor, row_of_token: Tensor) -> Tensor:
    """Add to each token the update of its row; the sum is float32, rounded once.

    Args:
        x: (B, N, C) residual stream, contiguous; any float dtype.
        update: (B, R, C), contiguous; any float dtype.
        row_of_token: (B, N) int32: the row whose update each token receives, R for none.

    Returns:
        (B, N, C) in the dtype of ``x``.

    Raises:
        InvalidInput: a tensor is not contiguous, or has another shape or device than x asks for; x is on the CPU.
        EnvironmentProblem: Triton is not installed.
    """
    batch, num_tokens, channels = x.shape
    num_rows = update.shape[1]
    _require(x, update=(update, (batch, num_rows, channels)), row_of_token=(row_of_token, (batch, num_tokens)))
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(UNPACK, num_tokens, x, x, update, row_of_token, out, num_tokens, num_rows)
    return out


def _require(x: Tensor, **others: tuple[Tensor, tuple[int, ...]]) -> None:
    """Raise unless kernels, which check nothing, can run where x is and read x and the others, of the given shapes."""
    require_launchable(x)
    for name, (tensor, shape) in {"x": (x, x.shape), **others}.items():
        if tuple(tensor.shape) != tuple(shape) or not tensor.is_contiguous() or tensor.device != x.device:
            raise InvalidInput(
                f"{name} has shape {tuple(tensor.shape)} and strides {tensor.stride()} on {tensor.device}; give shape "
                f"{tuple(shape)} on {x.device}, contiguous (tensor.contiguous())."
            )


def _require_counts(num_tokens: int, route: Route) -> None:
    """Raise unless the tokens are whole groups, or squares, and as many as ``route`` says."""
    by_square = route.selection == "quadtree"
    num_all, size = num_tokens // GROUP, SQUARE if by_square else GROUP
    most = max(0, num_all - route.num_groups) * GROUP // SQUARE if by_square else 0
    if num_tokens % size or not 0 <= route.num_groups <= num_all or not 0 <= route.num_merged <= most:
        raise InvalidInput(
            f"num_groups {route.num_groups} and num_merged {route.num_merged} of {num_tokens} tokens cannot be "
            f"selected; give a multiple of {size} tokens, a num_groups between 0 and {num_all}, {GROUP} tokens to a "
            f"group, and a num_merged between 0 and {most}."
        )


def _launch(kernel: RoutedKernel, count: int, x: Tensor, *arguments: Any) -> None:
    """Run ``kernel`` with a program for each block of ``count`` squares, groups, rows or tokens of each image."""
    launch = launch_settings(kernel.entry, x.device, x.shape[2])
    grid = (triton.cdiv(count, launch.block), len(x))
    with torch.cuda.device_of(x):  # Triton launches on the current GPU
        kernel.function[grid](*arguments, BLOCK=launch.block, **kernel.constants(x.shape[2]), **launch.options)
