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
    all other blocks to 14x14 windows; ``hq`` marks SAM-HQ's mask decoder.
    """

    family: str
    embed_dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    decoder_mlp_dim: int = 2048
    hq: bool = False

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

    attention_density: Annotated[Density, Field(description="Share of the keys that global attention computes.")] = 0.25
    mlp_density: Annotated[Density, Field(description="Share of the rows that MLPs compute.")] = 0.5
    windowed_density: Annotated[
        Density, Field(description="Share of windowed attention to compute, as --windowed-routing says.")
    ] = 1.0
    order: Annotated[Order, Field(description="Token order that stripes are cut from.")] = "lattice"
    routing: Annotated[Routing, Field(description="How the rows of MLPs are chosen.")] = "share-variance"
    windowed_routing: Annotated[
        WindowedRouting,
        Field(description="Whether --windowed-density thins keys (stripe) or shares the rows of flat cells."),
    ] = "stripe"

    def __post_init__(self) -> None:
        check_settings(self)
        for name in DENSITIES:
            value = getattr(self, name)
            for density in (value,) if isinstance(value, (int, float)) else value:
                if not 0 < density <= 1:
                    raise DensityError(f"{name} {density:g} is outside (0, 1]; 1 is the dense encoder.")

    @property
    def shares_rows(self) -> bool:
        """Whether unselected tokens share their group's mean row (``share``) or pass through unchanged (``skip``)."""
        return ROUTING_RULES[self.routing].share

    def for_block(self, name: str, index: int, depth: int) -> float:
        """The density called ``name`` in block ``index`` of ``depth`` blocks."""
        return _per_block(name, getattr(self, name), depth)[index]

    def key_densities(self, config: SamConfig) -> tuple[float, ...]:
        """The share of keys that queries attend to in each block of ``config``.

        Raises:
            DensityError: ``attention_density`` or ``windowed_density`` lists another number of blocks.
        """

        def density(index: int) -> float:
            if index in config.global_blocks:
                return self.for_block("attention_density", index, config.depth)
            thinned = self.windowed_routing == "stripe"
            return self.for_block("windowed_density", index, config.depth) if thinned else 1.0

        return tuple(density(index) for index in range(config.depth))

    def row_densities(self, config: SamConfig) -> tuple[float, ...]:
        """The share of rows that go through qkv and proj in each block of ``config``; 1 where nothing is shared.

        Raises:
            DensityError: ``windowed_density`` lists another number of blocks.
        """
        if self.windowed_routing == "stripe":
            return (1.0,) * config.depth
        densities = _per_block("windowed_density", self.windowed_density, config.depth)
        return tuple(1.0 if i in config.global_blocks else density for i, density in enumerate(densities))

    def mlp_densities(self, config: SamConfig) -> tuple[float, ...]:
        """The MLP density of each block of ``config``; 1 where the MLP is dense.

        Raises:
            DensityError: ``skip-group-rank`` before the first global block, whose ranking it needs.
        """
        densities = _per_block("mlp_density", self.mlp_density, config.depth)
        if not self.shares_rows and isinstance(self.mlp_density, (int, float)):
            densities = tuple(density if i in config.routed_blocks else 1.0 for i, density in enumerate(densities))
        first = min(config.global_blocks)
        if ROUTING_RULES[self.routing].by_ranking and min(densities[:first], default=1.0) < 1:
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
