"""Option groups shared by the commands, and the types that parse them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..declaration import Setting, settings_of
from ..engines.options import BuilderName, EngineOptions, chosen_builder
from ..export.options import Batch, ExportOptions
from ..export.weights import Weights
from ..model.config import FAMILIES, Density, SparsityConfig
from ..recipe import BuilderChoice, Start

if TYPE_CHECKING:
    from ..parity.samples import Sample

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # older click's takes no arguments


class FiniteRange(click.FloatRange):
    """A number in a range; NaN, which is in none, is not."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        number = super().convert(value, parameter, context)
        if not math.isfinite(number):
            self.fail(f"{value} is no number to compare with.", parameter, context)
        return number


class DensityType(ParamType):
    """A number in (0, 1], or one for each block, separated by commas."""

    name = "density"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            densities = tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a number in (0, 1], nor one for each block like 0.4,0.4,1.", param, ctx)
        for density in densities:
            if not 0 < density <= 1:
                self.fail(f"{density:g} is outside (0, 1]; 1 is the dense encoder.", param, ctx)
        return densities[0] if len(densities) == 1 else densities


class BatchType(ParamType):
    """One batch size, or the smallest, the usual and the largest of a dynamic one."""

    name = "batch"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        parts = value.split(",")
        if len(parts) not in (1, 3) or not all(part.strip().isdigit() for part in parts):
            self.fail(f"{value!r} is neither N nor MIN,OPT,MAX; give for example 1 or 1,4,8.", param, ctx)
        sizes = tuple(int(part) for part in parts)
        return sizes * 3 if len(sizes) == 1 else sizes


class ListType(ParamType):
    """Words separated by commas."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return tuple(value.split(",")) if isinstance(value, str) else value


Decorator = Callable[[Any], Any]


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator; help lists them in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def setting_option(setting: Setting, default: str | None = None, multiple: bool = False) -> Decorator:
    """The option that fills a setting; not given, it is None, or empty where it is ``multiple``.

    ``default`` is what help says of its default.
    """
    words = setting.help if default is None else f"{setting.help}  [{default}]"
    flag = f"--{setting.name.replace('_', '-')}"
    if setting.kind is bool:
        return click.option(flag, setting.name, is_flag=True, default=None, help=words)
    kind = _click_type(setting)
    return click.option(flag, setting.name, type=kind, metavar=setting.metavar, multiple=multiple, help=words)


def _click_type(setting: Setting) -> ParamType:
    if setting.choices:
        return click.Choice(setting.choices)
    if setting.kind is Path:
        return click.Path(path_type=Path)
    if setting.kind is int:
        low, high = (None if bound is None else int(bound) for bound in (setting.low, setting.high))
        return click.IntRange(low, high)
    return {Density: DensityType(), Batch: BatchType(), tuple[str, ...]: ListType()}[setting.kind]


def setting_options(declaration: type, default: str | None = None, multiple: bool = False) -> Decorator:
    """Options for all settings of a declaration; help says their defaults, called ``default``."""

    def words(setting: Setting) -> str | None:
        if default is None or setting.default is None or setting.kind is bool:
            return None
        value = setting.default
        shown = f"{value:g}" if isinstance(value, float) else str(value[0] if isinstance(value, tuple) else value)
        return f"{default}: {shown}"

    return together(*(setting_option(setting, words(setting), multiple) for setting in settings_of(declaration)))


weights = setting_options(Weights)

export_choices = together(
    weights,
    click.option(
        "--recipe",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="TOML file with values for these options, or the name of a shipped recipe; options override it.",
    ),
    setting_options(Start, "default"),
    setting_options(SparsityConfig, "preset"),
    setting_options(ExportOptions, "default"),
)

builder = setting_options(BuilderChoice)
engine_choices = together(builder, setting_options(EngineOptions))

plugin_choices = together(
    click.option(
        "--plugin-library",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help="tensorrt: plugin library to build the custom nodes with.  [default: the installed one]",
    ),
    click.option(
        "--no-plugins",
        is_flag=True,
        help="tensorrt: build the custom nodes from the standard operators of their ONNX functions, not as plugins.",
    ),
)

check_choices = together(
    click.option(
        "--images",
        "images",
        type=click.Path(path_type=Path, exists=True),
        multiple=True,
        help="Image, or folder of images, to check on instead of the shipped photos; repeatable.",
    ),
    click.option(
        "--min-dense-iou",
        type=FiniteRange(0, 1),
        help="Accuracy floor: exit 1 where the mean IoU of an image's masks with dense SAM's is lower than this.",
    ),
    click.option(
        "--junit",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Also write the checks as JUnit XML, one test case for each.",
    ),
)

tuned_models = click.option(
    "--model",
    "models",
    type=click.Choice(list(FAMILIES)),
    multiple=True,
    default=("vit_b", "vit_l", "vit_h"),
    show_default=True,
    help="Model for whose layer sizes the kernels are measured; repeatable.",
)

launch_table = click.option(
    "--output",
    default="launch_settings.toml",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Table of launch settings to write; entries for other GPUs and models stay in it.",
)

as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout; progress stays on stderr."
)


output = click.option(
    "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write the results into."
)


def require_builder(builder: BuilderName | None) -> BuilderName:
    """Refuse a command without a builder, or with one that is not usable here."""
    from ..engines.builder import load_builder

    chosen = chosen_builder(builder)
    load_builder(chosen)  # what it lacks comes before what its plugins lack
    return chosen


def read_samples(images: tuple[Path, ...]) -> list[Sample]:
    """The images of `check_choices` to check on; the shipped photos if there are none."""
    from ..parity.samples import shipped_samples, user_samples

    return user_samples(images) if images else shipped_samples()
