"""Option groups shared by the commands, and the types that parse them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InvalidInput
from ..model.config import FAMILIES, ORDERS, PRESETS, ROUTINGS, WINDOWED_ROUTINGS

if TYPE_CHECKING:
    from ..engines.options import EngineOptions
    from ..parity.samples import Sample

BUILDERS = click.Choice(["tensorrt", "tensorrt-rtx"])


class FiniteRange(click.FloatRange):
    """A number in a range; NaN, which is in none, is not."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        number = super().convert(value, parameter, context)
        if not math.isfinite(number):
            self.fail(f"{value} is no number to compare with.", parameter, context)
        return number


class DensityType(click.ParamType):
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


class BatchType(click.ParamType):
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


class ListType(click.ParamType):
    """Words separated by commas."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return tuple(value.split(",")) if isinstance(value, str) else value


def together(*options: Callable) -> Callable:
    def decorate(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


weights = together(
    click.option("--model", type=click.Choice(["nano"]), help="A model that ships with the package."),
    click.option(
        "--checkpoint",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="SAM, SAM-HQ, MedSAM or Hugging Face weights.",
    ),
)

export_choices = together(
    weights,
    click.option(
        "--recipe",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="TOML recipe, or the name of a shipped one; options override it.",
    ),
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        help="Starting point of the choices below; paper is the released SparseSAM code.  [default: default]",
    ),
    click.option("--density", type=DensityType(), help="Share of attention and of MLP rows to compute, in (0, 1]."),
    click.option(
        "--attention-density", type=DensityType(), help="The same for global attention alone.  [preset: 0.25]"
    ),
    click.option("--mlp-density", type=DensityType(), help="The same for routed MLPs alone.  [preset: 0.4]"),
    click.option("--windowed-density", type=DensityType(), help="The same for windowed attention.  [preset: 1]"),
    click.option(
        "--windowed-routing",
        type=click.Choice(WINDOWED_ROUTINGS),
        help="Whether --windowed-density thins keys (stripe) or shares the rows of flat cells.  [preset: stripe]",
    ),
    click.option(
        "--order",
        type=click.Choice(ORDERS),
        help="Token order that stripes are cut from.  [preset: lattice]",
    ),
    click.option(
        "--routing",
        type=click.Choice(ROUTINGS),
        help="How MLP rows are chosen.  [preset: share-variance]",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["fp32", "fp16", "bf16"]),
        help="Precision of weights and activations.  [default: fp16]",
    ),
    click.option(
        "--gelu", type=click.Choice(["erf", "tanh"]), help="Exact GELU or its tanh approximation.  [default: erf]"
    ),
    click.option(
        "--batch", type=BatchType(), metavar="N|MIN,OPT,MAX", help="Static or dynamic batch size.  [default: 1]"
    ),
)

engine_choices = together(
    click.option("--builder", type=BUILDERS, help="tensorrt needs the GPU it builds for, tensorrt-rtx none."),
    click.option(
        "--compute-capabilities",
        type=ListType(),
        metavar="SM86,...",
        help="GPUs of a tensorrt-rtx engine.  [default: SM80,SM86,SM89,SM120]",
    ),
    click.option("--workspace-mib", type=int, help="Limit of scratch memory, MiB."),
    click.option("--builder-optimization-level", type=click.IntRange(0, 5), help="tensorrt: effort of the builder."),
    click.option(
        "--version-compatible", is_flag=True, default=None, help="tensorrt: later releases can load the engine."
    ),
    click.option(
        "--timing-cache",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="tensorrt: read if there, written after the build.",
    ),
)

plugin_choices = together(
    click.option(
        "--plugin-library",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help="tensorrt: library whose plugins the custom nodes become.  [default: the installed one]",
    ),
    click.option(
        "--embed-plugins",
        is_flag=True,
        default=None,
        help="tensorrt: put the plugin library into the engine, which then loads without it.",
    ),
    click.option(
        "--no-plugins", is_flag=True, help="tensorrt: build the custom nodes from their function bodies, slower."
    ),
)

check_choices = together(
    click.option(
        "--images",
        "images",
        type=click.Path(path_type=Path, exists=True),
        multiple=True,
        help="Image or folder to check on, instead of the shipped photos; repeatable.",
    ),
    click.option(
        "--min-dense-iou",
        type=FiniteRange(0, 1),
        help="Accuracy floor: least mean mask IoU of the result to dense SAM.",
    ),
    click.option(
        "--junit",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Write the checks as JUnit XML.",
    ),
)

tuned_models = click.option(
    "--model",
    "models",
    type=click.Choice(list(FAMILIES)),
    multiple=True,
    default=("vit_b", "vit_l", "vit_h"),
    show_default=True,
    help="Encoder whose shapes to measure; repeatable.",
)

launch_table = click.option(
    "--output",
    default="launch_settings.toml",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Table to write.",
)

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; progress stays on stderr.")


output = click.option(
    "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder for the results."
)


def require_builder(builder: str | None) -> None:
    """Refuse a command without a builder, or with one that is not usable here."""
    from ..engines.builder import load_builder

    if builder is None:
        raise InvalidInput("no builder was chosen; give --builder tensorrt-rtx (needs no GPU) or --builder tensorrt.")
    load_builder(builder)  # what it lacks comes before what its plugins lack


def engine_options(choices: dict[str, Any], batch: tuple[int, int, int]) -> EngineOptions:
    """The builder's options of `engine_choices` and `plugin_choices`; what was not given has its default."""
    from ..engines.options import EngineOptions

    return EngineOptions(**{name: value for name, value in choices.items() if value is not None}, batch=batch)


def read_samples(images: tuple[Path, ...]) -> list[Sample]:
    """The images of `check_choices` to check on; the shipped photos if there are none."""
    from ..parity.samples import shipped_samples, user_samples

    return user_samples(images) if images else shipped_samples()
