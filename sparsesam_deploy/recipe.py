"""`ExportRecipe`: what someone chose to export and build, from options or from a TOML file."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from .declaration import Setting, check_settings, read_settings, settings_of
from .engines.options import BuilderName, EngineOptions
from .errors import InvalidInput
from .export.options import ExportOptions
from .export.weights import Weights
from .model.config import PRESETS, Density, SparsityConfig, choose_sparsity

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHIPPED_RECIPES = files("sparsesam_deploy") / "recipes"


@dataclass(frozen=True)
class Start:
    """What the choices of sparsity are laid over."""

    preset: Annotated[
        Literal["default", "paper"],
        Field(
            description="Values of the sparsity options that are not given; default is this project's choice, paper "
            "the released SparseSAM code's."
        ),
    ] = "default"
    density: Annotated[
        Density | None,
        Field(
            description="Both --attention-density and --mlp-density, where they are not given themselves; above 0 and "
            "at most 1, which is dense SAM."
        ),
    ] = None

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class BuilderChoice:
    """What builds the engine."""

    builder: Annotated[
        BuilderName | None,
        Field(
            description="What builds the engines; tensorrt needs the GPU that they are for, tensorrt-rtx needs no GPU."
        ),
    ] = None


PARTS = (Weights, Start, SparsityConfig, ExportOptions, BuilderChoice, EngineOptions)
"""Where the settings of a recipe are declared."""


@dataclass(frozen=True)
class ExportRecipe:
    """Everything that decides what is exported and built; TOML keys are the names of the settings of its parts.

    ``sparsity`` is the preset with the choices of sparsity on top; ``weights`` may be nobody's, where a recipe is read
    for its sparsity alone.
    """

    weights: Weights = field(default_factory=Weights)
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    export: ExportOptions = field(default_factory=ExportOptions)
    builder: BuilderName | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)

    @classmethod
    def merge(cls, file: Path | None, options: Mapping[str, Any]) -> ExportRecipe:
        """The recipe of a TOML file (if any) with options given on the command line (not None) on top.

        Raises:
            InvalidInput: the file is unreadable, or a value is unknown, of the wrong type or contradictory.
        """
        given = {name: value for name, value in options.items() if value is not None}
        values = {} if file is None else _read_toml(file)
        if "model" in given or "checkpoint" in given:
            values.pop("model", None), values.pop("checkpoint", None)
        try:
            return cls.of({**values, **given})
        except InvalidInput as error:
            name = re.split("[: ]", str(error))[0]
            if name in values and name not in given:
                raise type(error)(f"recipe {file}: {error}") from error
            raise

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ExportRecipe:
        """The recipe of settings by name.

        Raises:
            InvalidInput: as `merge`.
        """
        known = recipe_settings()
        for name in values:
            if name not in known:
                raise InvalidInput(f"{name}: no such setting; known ones are {', '.join(known)}.")

        def part(declaration: type) -> dict[str, Any]:
            names = {setting.name for setting in settings_of(declaration)}
            return {name: value for name, value in values.items() if name in names}

        start, sparsity = read_settings(Start, part(Start)), part(SparsityConfig)
        read = read_settings(SparsityConfig, sparsity)  # strictly, before they are laid over the preset
        choices = {name: getattr(read, name) for name in sparsity}
        return cls(
            read_settings(Weights, part(Weights)),
            choose_sparsity(PRESETS[start.preset], start.density, **choices),
            read_settings(ExportOptions, part(ExportOptions)),
            read_settings(BuilderChoice, part(BuilderChoice)).builder,
            read_settings(EngineOptions, part(EngineOptions)),
        )


def recipe_settings() -> dict[str, Setting]:
    """Every setting that a recipe may have, by name."""
    return {setting.name: setting for declaration in PARTS for setting in settings_of(declaration)}


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
            reason, names = (error.strerror or str(error)).lower(), ", ".join(sorted(shipped))
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
