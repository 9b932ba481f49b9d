"""`ExportRecipe`: what someone chose, from options or from a TOML file."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, StrictFloat, ValidationError, model_validator

from ..errors import InvalidInput
from ..model.checkpoint import LoadedSam, load_checkpoint, load_nano
from ..model.config import PRESETS, Order, Routing, SparsityConfig, WindowedRouting

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Density = StrictFloat | tuple[StrictFloat, ...]  # strict: TOML's true is not the density 1
SHIPPED_RECIPES = files("sparsesam_deploy") / "recipes"


class ExportRecipe(BaseModel):
    """Everything that decides what is exported and built; TOML keys are the field names.

    One of ``model`` and ``checkpoint`` names the weights. ``None`` leaves a choice to the preset or to the builder.
    ``density`` sets attention_density and mlp_density together; either can be set alone as well.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Literal["nano"] | None = None
    checkpoint: Path | None = None
    preset: Literal["default", "paper"] = "default"
    density: Density | None = None
    attention_density: Density | None = None
    mlp_density: Density | None = None
    windowed_density: Density | None = None
    windowed_routing: WindowedRouting | None = None
    order: Order | None = None
    routing: Routing | None = None
    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    gelu: Literal["erf", "tanh"] = "erf"
    batch: tuple[int, int, int] = (1, 1, 1)
    builder: Literal["tensorrt", "tensorrt-rtx"] | None = None
    compute_capabilities: tuple[str, ...] | None = None
    workspace_mib: int | None = None
    builder_optimization_level: int | None = None
    version_compatible: bool = False
    embed_plugins: bool = False
    timing_cache: Path | None = None

    @model_validator(mode="after")
    def _names_one_model(self) -> ExportRecipe:
        if (self.model is None) == (self.checkpoint is None):
            raise ValueError("give either --model nano or --checkpoint FILE")
        low, opt, high = self.batch
        if not 1 <= low <= opt <= high:
            raise ValueError(f"batch {low},{opt},{high} is not MIN <= OPT <= MAX with MIN at least 1")
        return self

    @classmethod
    def merge(cls, file: Path | None, options: dict[str, Any]) -> ExportRecipe:
        """The recipe of a TOML file (if any) with options given on the command line (not None) on top.

        Raises:
            InvalidInput: the file is unreadable, or a value is unknown, of the wrong type or contradictory.
        """
        values = {} if file is None else _read_toml(file)
        given = {name: value for name, value in options.items() if value is not None}
        if "model" in given or "checkpoint" in given:
            values.pop("model", None), values.pop("checkpoint", None)
        try:
            return cls.model_validate({**values, **given})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"][:1]))
            message = first["msg"].removeprefix("Value error, ")
            if first["type"] == "extra_forbidden":
                message = f"no such setting; known ones are {', '.join(cls.model_fields)}"
            elif where:
                message += f", not {first['input']!r}"
            source = f"recipe {file}: " if file is not None and where not in given else ""
            raise InvalidInput(f"{source}{where + ': ' if where else ''}{message}.") from error

    @property
    def sparsity(self) -> SparsityConfig:
        """The preset with this recipe's choices on top."""
        preset = PRESETS[self.preset]

        def first(*values: Any) -> Any:
            return next(value for value in values if value is not None)

        order = first(self.order, preset.order)
        return SparsityConfig(
            attention_density=first(self.attention_density, self.density, preset.attention_density),
            mlp_density=first(self.mlp_density, self.density, preset.mlp_density),
            windowed_density=first(self.windowed_density, preset.windowed_density),
            order=order,
            routing=first(self.routing, preset.routing),
            windowed_routing=first(self.windowed_routing, preset.windowed_routing),
        )

    def load(self) -> LoadedSam:
        """The weights this recipe names."""
        return load_nano() if self.checkpoint is None else load_checkpoint(self.checkpoint)


def shipped_recipes() -> dict[str, str]:
    """Text of the recipes that ship with the package, by name."""
    recipes = (entry for entry in SHIPPED_RECIPES.iterdir() if entry.name.endswith(".toml"))
    return {entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8") for entry in recipes}


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        shipped = shipped_recipes()
        if str(file) not in shipped:
            reason, names = error.strerror.lower(), ", ".join(sorted(shipped))
            raise InvalidInput(f"recipe {file} cannot be read ({reason}); shipped ones: {names}.") from error
        text = shipped[str(file)]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"recipe {file} is not TOML ({error}); see export/recipes/ for examples.") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"recipe {file} is not TOML ({error}); see export/recipes/ for examples.") from error
    for key in ("checkpoint", "timing_cache"):  # relative to the recipe, so that it can be run from anywhere
        if isinstance(values.get(key), str):
            values[key] = file.parent / values[key]
    return values
