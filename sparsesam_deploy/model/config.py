"""What a SAM image encoder looks like (:class:`SamConfig`) and how it is thinned (:class:`SparsityConfig`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field

from ..declaration import CLOSED, check_settings, settings_of
from ..errors import DensityError
from ..ops.geometry import GRID_SIZE
from ..ops.routing import ROUTING_RULES, Routing

Order = Literal["lattice", "interleaved", "ranked"]
WindowedRouting = Literal["stripe", "share-variance"]
Gelu = Literal["erf", "tanh"]
ORDERS: tuple[str, ...] = get_args(Order)
ROUTINGS: tuple[str, ...] = tuple(ROUTING_RULES)

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
PATCH_SIZE = 16
IMAGE_SIZE = GRID_SIZE * PATCH_SIZE
OUT_CHANNELS = 256


@dataclass(frozen=True)
class SamConfig:
    """The shape of one Segment Anything model; everything not listed here is the same for all of them.

    ``family`` is ``vit_b``, ``vit_l``, ``vit_h``, ``nano`` or ``custom``; ``global_blocks`` attend to the whole grid,
    all other blocks to 14x14 windows; ``hq`` marks SAM-HQ's mask decoder; ``grid_size`` is the side of the grid of
    tokens.
    """

    family: str
    embed_dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    decoder_mlp_dim: int = 2048
    hq: bool = False
    grid_size: int = GRID_SIZE

    @property
    def num_tokens(self) -> int:
        return self.grid_size**2

    @property
    def image_size(self) -> int:
        """Side of an image, pixels."""
        return self.grid_size * PATCH_SIZE

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def routed_blocks(self) -> tuple[int, ...]:
        """Blocks that skip rows where one density is given for all: windowed, after the first global one."""
        return tuple(i for i in range(self.depth) if i not in self.global_blocks and i > min(self.global_blocks))


FAMILIES: dict[str, SamConfig] = {
    "vit_b": SamConfig("vit_b", 768, 12, 12, (2, 5, 8, 11)),
    "vit_l": SamConfig("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": SamConfig("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
    "nano": SamConfig("nano", 192, 12, 3, (2, 5, 8, 11), decoder_mlp_dim=512),
}

Density = float | tuple[float, ...]


def _per_block(name: str, density: Density, depth: int) -> tuple[float, ...]:
    values = (density,) * depth if isinstance(density, (int, float)) else tuple(density)
    if len(values) != depth:
        raise DensityError(
            f"{name} lists {len(values)} values, but the encoder has {depth} blocks; give one or {depth}."
        )
    return values


@dataclass(frozen=True)
class BlockPlan:
    """What is computed in one block: its densities are numbers, resolved once for the whole encoder.

    Attributes:
        index: of the block.
        windowed: whether it attends within windows; else to the whole grid.
        key_density: share of the keys that queries attend to.
        row_density: share of the rows that go through qkv and proj.
        mlp_density: share of the rows that go through the MLP.
        makes_ranking: whether it is the first of its kind, and others or the routing need its group ranking.
        grid_size: side of the grid of tokens.
    """

    index: int
    windowed: bool
    key_density: float = 1.0
    row_density: float = 1.0
    mlp_density: float = 1.0
    makes_ranking: bool = False
    grid_size: int = GRID_SIZE

    @property
    def num_tokens(self) -> int:
        return self.grid_size**2


@dataclass(frozen=True)
class SparsityConfig:
    """How much of the encoder is computed, and which part. The defaults are the ``default`` preset.

    A density is a share of the work in (0, 1], one number for all blocks or a tuple with one number for each block;
    1 is the dense SAM exactly. Where rows are skipped, one ``mlp_density`` is that of `SamConfig.routed_blocks`, as in
    the released code, and the other blocks stay dense. In the ``interleaved`` and ``ranked`` orders a query of a
    global block also attends to its own tile.

    ``windowed_routing`` says what ``windowed_density`` is a share of in windowed blocks: ``stripe``, of the keys;
    ``share-variance``, of the rows that go through qkv and proj, where every token still attends to its whole window.

    Raises:
        InvalidInput: an unknown order or routing.
        DensityError: a density outside (0, 1].
    """

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    attention_density: Annotated[
        Density,
        Field(
            description="Share of the keys that each query of global attention is compared with; one number, or one "
            "for each block."
        ),
    ] = 0.25
    mlp_density: Annotated[
        Density,
        Field(description="Share of the token rows that the MLPs compute; one number, or one for each block."),
    ] = 0.5
    windowed_density: Annotated[
        Density,
        Field(
            description="Share of windowed attention that is computed, in the way of --windowed-routing; one number, "
            "or one for each block."
        ),
    ] = 1.0
    order: Annotated[
        Order,
        Field(
            description="Which keys global attention computes; lattice and interleaved take the same ones for every "
            "image, ranked chooses them by the image."
        ),
    ] = "lattice"
    routing: Annotated[
        Routing,
        Field(
            description="Which rows the MLPs compute; share-* computes one mean row for the tokens of a flat group, "
            "skip-* leaves tokens out."
        ),
    ] = "share-variance"
    windowed_routing: Annotated[
        WindowedRouting,
        Field(
            description="What --windowed-density thins; stripe the keys of a window, share-variance the rows of qkv "
            "and proj, which flat 2x2 groups share."
        ),
    ] = "stripe"

    def __post_init__(self) -> None:
        check_settings(self)
        for name in DENSITIES:
            value = getattr(self, name)
            for density in (value,) if isinstance(value, (int, float)) else value:
                if not 0 < density <= 1:
                    raise DensityError(f"{name} {density:g} is outside (0, 1]; 1 is the dense encoder.")

    def plan(self, config: SamConfig) -> tuple[BlockPlan, ...]:
        """What is computed in each block of an encoder.

        Raises:
            DensityError: a density lists another number of blocks, or ``skip-group-rank`` is to thin a block before the
                first global one, whose ranking it needs.
        """
        rule, shares_windows = ROUTING_RULES[self.routing], self.windowed_routing == "share-variance"
        attention = _per_block("attention_density", self.attention_density, config.depth)
        windowed = _per_block("windowed_density", self.windowed_density, config.depth)
        plans = []
        for index, mlp in enumerate(self._mlp_densities(config)):
            plan = BlockPlan(index, index not in config.global_blocks, mlp_density=mlp, grid_size=config.grid_size)
            if not plan.windowed:
                plan = replace(plan, key_density=attention[index])
            elif shares_windows:
                plan = replace(plan, row_density=windowed[index])
            else:
                plan = replace(plan, key_density=windowed[index])
            plans.append(plan)
        for kind in (False, True):
            alike = [plan for plan in plans if plan.windowed == kind]
            by_attention = self.order == "ranked" and any(plan.key_density < 1 for plan in alike)
            by_mlp = not kind and rule.by_ranking and any(plan.mlp_density < 1 for plan in plans)
            if by_attention or by_mlp:
                plans[alike[0].index] = replace(alike[0], makes_ranking=True)
        return tuple(plans)

    def _mlp_densities(self, config: SamConfig) -> tuple[float, ...]:
        densities, rule = _per_block("mlp_density", self.mlp_density, config.depth), ROUTING_RULES[self.routing]
        if not rule.share and isinstance(self.mlp_density, (int, float)):
            densities = tuple(density if i in config.routed_blocks else 1.0 for i, density in enumerate(densities))
        first = min(config.global_blocks)
        if rule.by_ranking and min(densities[:first], default=1.0) < 1:
            raise DensityError(
                f"mlp_density is below 1 in a block before {first}, where {self.routing} has no ranking yet; "
                f"give 1 for the first {first} blocks or another routing."
            )
        return densities


DENSITIES = tuple(setting.name for setting in settings_of(SparsityConfig) if setting.kind == Density)
"""The settings that are a share of the work."""
DENSITY_SETS = ("attention_density", "mlp_density")
"""What a user's one ``density`` stands for."""

PRESETS: dict[str, SparsityConfig] = {
    "default": SparsityConfig(),
    "paper": SparsityConfig(
        attention_density=0.4, mlp_density=0.4, windowed_density=0.4, order="ranked", routing="skip-group-rank"
    ),
}
DENSE = SparsityConfig(attention_density=1.0, mlp_density=1.0, windowed_density=1.0)


def choose_sparsity(base: SparsityConfig, density: Density | None = None, **choices: Any) -> SparsityConfig:
    """``base`` with choices on top, by the names of `SparsityConfig`'s settings; ``None`` is no choice.

    ``density`` is the choice of each of `DENSITY_SETS` that has none of its own.

    Raises:
        InvalidInput: as `SparsityConfig`.
    """
    given = {name: value for name, value in choices.items() if value is not None}
    together = {} if density is None else dict.fromkeys(DENSITY_SETS, density)
    return replace(base, **(together | given))
