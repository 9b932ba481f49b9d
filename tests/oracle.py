"""The sparse encoder once more, from what the methods say alone: explicit masks, raster layout, no speed.

Nothing here comes from the package except the configuration class. Tokens stay where the image has them (64x64, row by
row), windows are Segment Anything's own ``window_partition``, the position bias is its ``add_decomposed_rel_pos``, and
what is not attended to is minus infinity in the full matrix of scores. Equations are the SparseSAM paper's.
"""

from __future__ import annotations

from functools import cache
from math import floor

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import (
    ImageEncoderViT,
    add_decomposed_rel_pos,
    window_partition,
    window_unpartition,
)
from torch import Tensor

from sparsesam_deploy.model.config import SparsityConfig

GRID, WINDOW, TILE, PATCH = 64, 14, 64, 8


def round_half_up(value: float) -> int:
    return floor(value + 0.5)


def morton_code(row: int, col: int) -> int:
    """Interleaved bits, each row bit above its column bit: ``... r1 c1 r0 c0``."""
    return sum((row >> bit & 1) << (2 * bit + 1) | (col >> bit & 1) << (2 * bit) for bit in range(8))


@cache
def z_curve(size: int) -> Tensor:
    """Raster indices of a ``size x size`` grid in the order of their Morton codes."""
    return torch.tensor(sorted(range(size * size), key=lambda token: morton_code(*divmod(token, size))))


@cache
def cells(size: int) -> Tensor:
    """(groups, 4) raster indices: four consecutive tokens of the Z-order are one 2x2 cell."""
    return z_curve(size).view(-1, 4)


def bit_reversed_offsets(count: int) -> list[int]:
    """The first ``count`` of the 64 offsets inside an 8x8 patch, bit-reversed."""
    return [int(f"{number:06b}"[::-1], 2) for number in range(count)]


@cache
def lattice_sequence() -> Tensor:
    """Raster indices offset by offset; within an offset patch by patch along the Z-order."""
    patches = z_curve(GRID).view(-1, PATCH * PATCH)
    return torch.cat([patches[:, offset] for offset in bit_reversed_offsets(PATCH * PATCH)])


def interleaved_sequence(ranked_cells: Tensor) -> Tensor:
    """Member 0 of every group in rank order, then member 1 of every group, and so on."""
    return torch.cat([ranked_cells[:, member] for member in range(4)])


def positions_in(sequence: Tensor) -> Tensor:
    positions = torch.empty_like(sequence)
    positions[sequence] = torch.arange(len(sequence))
    return positions


def zscore(values: Tensor) -> Tensor:
    return (values - values.mean()) / (values.std() + 1e-6)


def group_scores(keys: Tensor, groups: Tensor) -> Tensor:
    """(groups,) what the released code ranks groups by: varied inside, unlike the others' means.

    ``keys`` are (tokens, head_dim), ``groups`` (groups, 4) indices.

    Cells of padding have equal keys, so their scores tie. Double precision, rounded, keeps such ties exact; the stable
    sort then takes them in Z-order.
    """
    members = keys.double()[groups]
    spread = members.std(dim=1).mean(dim=1)
    means = F.normalize(members.mean(dim=1), dim=1)
    similarity = means @ means.T
    similarity.fill_diagonal_(0)
    score = zscore(spread) + zscore(-similarity.sum(dim=1) / (len(groups) - 1))
    return score.round(decimals=9)


def mask_of_tiles(sequence: Tensor, num_tiles: int, own_tile: bool) -> Tensor:
    """(tokens, tokens) bool: query row attends to key column. Tiles are 64 consecutive positions of ``sequence``."""
    tile = positions_in(sequence) // TILE
    mask = (tile < num_tiles)[None, :].expand(len(tile), -1)
    return mask | (tile[:, None] == tile[None, :]) if own_tile else mask


def mask_of_lattice(density: float) -> Tensor:
    """(4096, 4096) bool: the keys at the chosen offsets of every patch."""
    count = max(1, round_half_up(PATCH * PATCH * density))
    token = torch.arange(GRID * GRID)
    row, col = token // GRID, token % GRID
    # Inside a patch the low six bits of the Morton code are the offset.
    offset = torch.tensor([morton_code(r % PATCH, c % PATCH) for r, c in zip(row.tolist(), col.tolist(), strict=True)])
    mask = torch.isin(offset, torch.tensor(bit_reversed_offsets(count), dtype=offset.dtype))[None, :]
    return mask.expand(GRID * GRID, -1)


def sobel_magnitude(features: Tensor) -> Tensor:
    """(64, 64, C) -> (64, 64): gradient of every channel with zero padding, mean square over channels, root (Eq. 1)."""
    kernel = features.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    channels = features.permute(2, 0, 1)[:, None]
    along_x = F.conv2d(channels, kernel[None, None], padding=1)[:, 0]
    along_y = F.conv2d(channels, kernel.T[None, None], padding=1)[:, 0]
    return (along_x.square() + along_y.square()).mean(dim=0).sqrt()


def best(scores: Tensor, count: int) -> Tensor:
    """Bool of the ``count`` highest scores; of equal ones the first."""
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    chosen[scores.argsort(descending=True, stable=True)[:count]] = True
    return chosen


class OracleEncoder:
    """What ``image_encoder`` (Segment Anything's own module) should compute at ``config``, in single precision.

    ``margins`` afterwards lists, for every data-dependent selection of the last call, the relative distance between the
    last score taken and the first one left: a test whose margins are near zero compares coin tosses.
    """

    def __init__(self, image_encoder: ImageEncoderViT, config: SparsityConfig) -> None:
        self.vit, self.config = image_encoder, config
        self.depth = len(image_encoder.blocks)
        self.global_blocks = [i for i, block in enumerate(image_encoder.blocks) if block.window_size == 0]
        self.margins: list[float] = []

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """(B, 3, 1024, 1024) -> (B, 256, 64, 64)."""
        return self.embed(self.block_outputs(image)[-1])

    @torch.no_grad()
    def embed(self, last: Tensor) -> Tensor:
        # Contiguous as in the stock encoder: for channels last, the CPU's 3x3 convolution is ten times less exact.
        return self.vit.neck(last.permute(0, 3, 1, 2).contiguous())

    @torch.no_grad()
    def block_outputs(self, image: Tensor) -> list[Tensor]:
        """(B, 3, 1024, 1024) -> for each block (B, 64, 64, C) in raster layout."""
        self.margins = []
        # One image after another: nothing is ever chosen across a batch.
        per_image = [self._blocks_of_one(single[None]) for single in image]
        return [torch.cat(outputs) for outputs in zip(*per_image, strict=True)]

    def _blocks_of_one(self, image: Tensor) -> list[Tensor]:
        self.rankings: dict[str, Tensor] = {}
        x, outputs = self.vit.patch_embed(image) + self.vit.pos_embed, []
        for index, block in enumerate(self.vit.blocks):
            x = x + (self._windowed(index, x) if block.window_size else self._global(index, x))
            x = x + self._mlp_update(index, x[0])[None]
            outputs.append(x)
        return outputs

    def _qkv(self, attn, tokens: Tensor) -> Tensor:
        """(sheets, size, size, C) -> (3, sheets, heads, size * size, head_dim)."""
        sheets, size = tokens.shape[:2]
        return attn.qkv(tokens).view(sheets, size * size, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)

    def _ranking(self, kind: str, keys: Tensor, groups: Tensor) -> Tensor:
        """(sheets, heads, groups): made from the keys of the first block of its kind, kept for the later ones."""
        if kind not in self.rankings:
            scores = torch.stack([torch.stack([group_scores(head, groups) for head in sheet]) for sheet in keys])
            self.rankings[kind] = scores.argsort(dim=-1, descending=True, stable=True)
            if self.config.order == "ranked":
                # Tiles of the interleaved sequence begin at these ranks; exact ties there are padding's, and settled.
                gaps = -scores.sort(dim=-1, descending=True).values.diff(dim=-1)
                starts = sorted({tile * TILE % len(groups) for tile in range(4 * len(groups) // TILE + 1)} - {0})
                at_starts = gaps[..., [start - 1 for start in starts]]
                self.margins.append(at_starts[at_starts > 0].min().item())
        return self.rankings[kind]

    @staticmethod
    def _attend(attn, qkv: Tensor, size: int, mask: Tensor) -> Tensor:
        """One head on some sheets: ``qkv`` (3, sheets, tokens, head_dim), ``mask`` (tokens, tokens) or per sheet."""
        query, key, value = qkv
        scores = (query * attn.scale) @ key.transpose(1, 2)
        scores = add_decomposed_rel_pos(scores, query, attn.rel_pos_h, attn.rel_pos_w, (size, size), (size, size))
        return scores.masked_fill_(~mask, float("-inf")).softmax(dim=-1) @ value

    @staticmethod
    def _project(attn, heads: list[Tensor], size: int) -> Tensor:
        merged = torch.cat(heads, dim=-1)
        return attn.proj(merged.view(len(merged), size, size, -1))

    def _density(self, name: str, index: int) -> float:
        value = getattr(self.config, name)
        return value if isinstance(value, float) else value[index]

    def _global(self, index: int, x: Tensor) -> Tensor:
        block, config = self.vit.blocks[index], self.config
        density = self._density("attention_density", index)
        qkv = self._qkv(block.attn, block.norm1(x))
        groups = cells(GRID)
        ranking = self._ranking("global", qkv[1], groups)[0]
        heads = []
        for head in range(block.attn.num_heads):
            if density == 1:
                mask = torch.ones(GRID * GRID, GRID * GRID, dtype=torch.bool)
            elif config.order == "lattice":
                mask = mask_of_lattice(density)
            else:
                ranked = groups[ranking[head]] if config.order == "ranked" else groups
                mask = mask_of_tiles(interleaved_sequence(ranked), floor(64 * density), own_tile=True)
            heads.append(self._attend(block.attn, qkv[:, :, head], GRID, mask))
        return self._project(block.attn, heads, GRID)

    def _windowed(self, index: int, x: Tensor) -> Tensor:
        block, config = self.vit.blocks[index], self.config
        if config.windowed_routing == "share-variance":
            return self._shared_windows(index, x)
        density = self._density("windowed_density", index)
        # Padding comes after the norm, so a padded token is the bias of the projection and takes part like any other.
        windows, padded = window_partition(block.norm1(x), WINDOW)
        qkv = self._qkv(block.attn, windows)
        groups = cells(WINDOW)
        ranking = self._ranking("windowed", qkv[1], groups) if config.order == "ranked" else None
        heads = []
        for head in range(block.attn.num_heads):
            masks = []
            for window in range(len(windows)):
                ranked = groups if ranking is None else groups[ranking[window, head]]
                sequence, tiles = interleaved_sequence(ranked), floor(4 * density) + 1
                mask = mask_of_tiles(sequence, tiles, own_tile=False)
                masks.append(mask if density < 1 else torch.ones_like(mask))
            heads.append(self._attend(block.attn, qkv[:, :, head], WINDOW, torch.stack(masks)))
        out = self._project(block.attn, heads, WINDOW)
        return window_unpartition(out, WINDOW, padded, (GRID, GRID))

    def _shared_windows(self, index: int, x: Tensor) -> Tensor:
        """Dense windows in which the tokens of a flat cell share their input and, after it, their output.

        What qkv and proj make of equal rows is equal, so here they work on all tokens. The mean of the four outputs is
        taken after proj, which is linear.
        """
        block, density = self.vit.blocks[index], self._density("windowed_density", index)
        y = block.norm1(x)
        rows, groups = y.view(GRID * GRID, -1).clone(), cells(GRID)
        flat = groups[~self._best_by_variance(rows, round_half_up((density - 0.25) * GRID * GRID / 3))]
        rows[flat] = rows[flat].mean(dim=1, keepdim=True)
        windows, padded = window_partition(rows.view_as(y), WINDOW)
        qkv, everything = self._qkv(block.attn, windows), torch.ones(WINDOW**2, WINDOW**2, dtype=torch.bool)
        heads = [self._attend(block.attn, qkv[:, :, head], WINDOW, everything) for head in range(block.attn.num_heads)]
        update = window_unpartition(self._project(block.attn, heads, WINDOW), WINDOW, padded, (GRID, GRID))
        tokens = update.reshape(GRID * GRID, -1).clone()
        tokens[flat] = tokens[flat].mean(dim=1, keepdim=True)
        return tokens.view_as(y)

    def _mlp_update(self, index: int, x: Tensor) -> Tensor:
        """What the MLP half adds to the residual stream ``x`` (64, 64, C)."""
        block, density = self.vit.blocks[index], self._density("mlp_density", index)
        y = block.norm2(x)
        spared = isinstance(self.config.mlp_density, float) and self.config.routing.startswith("skip-")
        routed = not spared or (index not in self.global_blocks and index > self.global_blocks[0])
        if not routed or density == 1:
            return block.mlp(y)
        if self.config.routing.startswith("skip-"):
            kept = self._kept_tokens(x, density).view(GRID, GRID, 1)
            return torch.where(kept, block.mlp(y), 0.0)
        if self.config.routing == "share-quadtree":
            return block.mlp(self._quadtree_rows(y, density))
        groups, rows = cells(GRID), y.view(GRID * GRID, -1)
        detailed = self._best_by_variance(rows, round_half_up((density - 0.25) * GRID * GRID / 3))
        update = torch.empty_like(rows)
        update[groups[detailed]] = block.mlp(rows[groups[detailed]])
        update[groups[~detailed]] = block.mlp(rows[groups[~detailed]].mean(dim=1, keepdim=True))
        return update.view_as(x)

    def _quadtree_rows(self, y: Tensor, density: float) -> Tensor:
        """y (64, 64, C) with the mean in place of every token of a merged 4x4 square and of a flat 2x2 cell.

        Half of the squares are merged, those that vary least, unless so many cells are detailed that fewer are left.
        """
        tokens, all_cells = GRID * GRID, GRID * GRID // 4
        more_detailed_than_merged = round_half_up((density - 0.25) * tokens / 3)
        num_merged = min(tokens // 32, floor((all_cells - more_detailed_than_merged) / 5))
        num_detailed = more_detailed_than_merged + num_merged
        rows = y.clone()

        def spread(row: int, col: int, side: int) -> float:
            part = y[row : row + side, col : col + side].flatten(0, 1)
            return ((part - part.mean(dim=0)) ** 2).sum().item()

        def flatten(row: int, col: int, side: int) -> None:
            rows[row : row + side, col : col + side] = y[row : row + side, col : col + side].mean(dim=(0, 1))

        squares = [(row, col) for row in range(0, GRID, 4) for col in range(0, GRID, 4)]
        whole = self._best(torch.tensor([spread(*at, 4) for at in squares]), len(squares) - num_merged)
        left = []
        for (row, col), is_whole in zip(squares, whole.tolist(), strict=True):
            if is_whole:
                left += [(row, col), (row, col + 2), (row + 2, col), (row + 2, col + 2)]
            else:
                flatten(row, col, 4)
        detailed = self._best(torch.tensor([spread(*at, 2) for at in left]), num_detailed)
        for at, is_detailed in zip(left, detailed.tolist(), strict=True):
            if not is_detailed:
                flatten(*at, 2)
        return rows

    def _kept_tokens(self, x: Tensor, density: float) -> Tensor:
        """(4096,) bool in raster order: the tokens that a ``skip`` routing puts through the MLP."""
        tokens, groups = GRID * GRID, cells(GRID)
        kept = torch.zeros(tokens, dtype=torch.bool)
        if self.config.routing == "skip-static":
            kept[lattice_sequence()[: round_half_up(density * tokens)]] = True
        elif self.config.routing == "skip-group-rank":
            # Group-contiguous: all four members of the best group, then of the next. Sums order as means do, exactly.
            ranking = self.rankings["global"][0]
            total = sum(positions_in(groups[head].flatten()) for head in ranking)
            along_curve = z_curve(GRID)
            kept[along_curve[best(-total[along_curve], round_half_up(density * tokens))]] = True
        else:
            chosen = self._best_by_sobel(x, round_half_up(density * tokens / 4))
            kept[groups[chosen].flatten()] = True
        return kept

    def _best_by_variance(self, rows: Tensor, count: int) -> Tensor:
        """(1024,) bool in Z-order: the 2x2 cells of ``rows`` (4096, C) that vary most."""
        members = rows[cells(GRID)]
        return self._best(((members - members.mean(dim=1, keepdim=True)) ** 2).sum(dim=(1, 2)), count)

    def _best_by_sobel(self, x: Tensor, count: int) -> Tensor:
        return self._best(sobel_magnitude(x).flatten()[cells(GRID)].mean(dim=1), count)

    def _best(self, scores: Tensor, count: int) -> Tensor:
        if 0 < count < len(scores):
            ordered = scores.sort(descending=True).values
            self.margins.append(((ordered[count - 1] - ordered[count]) / ordered[count]).item())
        return best(scores, count)


def oracle_encoder(image_encoder: ImageEncoderViT, config: SparsityConfig, image: Tensor) -> Tensor:
    """(B, 3, 1024, 1024) -> (B, 256, 64, 64): see :class:`OracleEncoder`."""
    return OracleEncoder(image_encoder, config)(image)
