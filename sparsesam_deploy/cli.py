"""``sparsesam-export``: parse, call, print. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import cli_options as options
from .cli_benchmark import benchmark
from .cli_evaluate import evaluate
from .cli_triton import triton
from .cli_tune import tune
from .errors import EnvironmentProblem, InvalidInput, SparseSamError

INTERRUPTED = 130
OUT_OF_MEMORY = ("allocate memory", "out of memory")
"""How torch says so, of the machine's memory and of the GPU's."""
ENGINE_FIELDS = (
    "compute_capabilities",
    "workspace_mib",
    "builder_optimization_level",
    "version_compatible",
    "embed_plugins",
    "timing_cache",
)

progress_console = Console(stderr=True)
console = Console()


def _example(text: str) -> str:
    return f"\b\nExample:\n  {text}"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="sparsesam-deploy")
def cli() -> None:
    """Put a sparse Segment Anything encoder into production: checkpoint to ONNX to TensorRT, with proof.

    Exit codes: 0 ok, 1 a check failed, 2 unusable input, 3 something is missing on this machine.
    """


@cli.command(
    short_help="Export, build the engine and prove it.",
    epilog=_example("sparsesam-export build --model nano --builder tensorrt-rtx --output engines/built/nano"),
)
@options.export_choices
@options.engine_choices
@options.plugin_choices
@options.check_choices
@click.option("--overlay", is_flag=True, help="Also draw overlay.png: dense masks, sparse masks, kept tokens.")
@options.output
@options.as_json
def build(
    recipe: Path | None,
    output: Path,
    images: tuple[Path, ...],
    min_dense_iou: float | None,
    junit: Path | None,
    overlay: bool,
    plugin_library: Path | None,
    no_plugins: bool,
    as_json: bool,
    **choices: Any,
) -> int:
    """Export, build the engine and prove it: encoder.onnx, decoder.onnx, encoder.engine, manifest.json, parity.json."""
    from .engines import build as building
    from .export.recipe import ExportRecipe
    from .plugins import choose_library
    from .progress import Stages

    chosen = ExportRecipe.merge(recipe, choices)
    _require_builder(chosen.builder)
    result = building.build(
        chosen,
        output,
        _engine_options({name: getattr(chosen, name) for name in ENGINE_FIELDS}, chosen.batch),
        _samples(images),
        Stages(progress_console),
        choose_library(chosen.builder, plugin_library, no_plugins),
        min_dense_iou,
        overlay,
    )
    place = output if result.report.passed else output / building.REJECTED
    if as_json:
        _print_json(
            {
                "passed": result.report.passed,
                "output": str(place),
                "manifest": result.manifest.model_dump(mode="json"),
                "parity": result.report.as_json(),
            }
        )
    else:
        result.report.print(console)
        nodes = sorted(set(result.manifest.audit.custom_nodes.values()))
        console.print(f"custom nodes: {' and '.join(nodes)}", highlight=False)
        console.print(f"effective density: {_words(result.manifest.sparsity.effective_density)}", highlight=False)
        for warning in result.manifest.warnings:
            console.print(f"{chosen.builder} warns: {warning}", highlight=False, markup=False, soft_wrap=True)
        console.print(f"written to {place}", highlight=False, markup=False, soft_wrap=True)
    return _finish(result.report, junit)


@cli.command(
    "onnx", epilog=_example("sparsesam-export onnx --checkpoint sam_vit_h_4b8939.pth --density 0.4 --output exported")
)
@options.export_choices
@options.output
@options.as_json
def export_onnx(recipe: Path | None, output: Path, as_json: bool, **choices: Any) -> None:
    """Export encoder.onnx and decoder.onnx only."""
    from .artifacts import output_folder
    from .engines.build import export
    from .export.recipe import ExportRecipe
    from .progress import Stages

    stages = Stages(progress_console)
    with output_folder(output) as folder:
        export(ExportRecipe.merge(recipe, choices), folder, stages)
        names = sorted(file.name for file in folder.iterdir())
    if as_json:
        _print_json({"output": str(output), "files": names, "stages": stages.as_dicts()})
    else:
        console.print(f"written to {output}: {', '.join(names)}", highlight=False, markup=False, soft_wrap=True)


@cli.command(
    short_help="Build an engine from an exported encoder.",
    epilog=_example("sparsesam-export engine exported/encoder.onnx --builder tensorrt-rtx --output exported"),
)
@click.argument("encoder", type=click.Path(path_type=Path), metavar="ENCODER.ONNX")
@options.engine_choices
@options.plugin_choices
@options.output
@options.as_json
def engine(
    encoder: Path,
    builder: str | None,
    plugin_library: Path | None,
    no_plugins: bool,
    output: Path,
    as_json: bool,
    **choices: Any,
) -> None:
    """Build encoder.engine and manifest.json from an exported encoder."""
    from .engines.build import build_engine_only
    from .export.metadata import load_exported
    from .plugins import choose_library
    from .progress import Stages

    _require_builder(builder)
    library = choose_library(builder, plugin_library, no_plugins)
    _, metadata = load_exported(encoder, "encoder")
    engine_options = _engine_options(choices, tuple(metadata["batch"]))
    manifest = build_engine_only(encoder, output, builder, engine_options, library, Stages(progress_console))
    if as_json:
        _print_json(manifest.model_dump(mode="json"))
    else:
        words = f"written to {output}: {manifest.engine.name}, {manifest.engine.bytes >> 20} MiB"
        console.print(words, highlight=False, markup=False, soft_wrap=True)


@cli.command(
    short_help="Compare exported files and engine with PyTorch.",
    epilog=_example("sparsesam-export verify engines/built/nano --model nano --images photos/ --junit parity.xml"),
)
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@options.weights
@options.check_choices
@click.option(
    "--overlay",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw dense masks, sparse masks and kept tokens as PNG.",
)
@options.as_json
def verify(
    folder: Path,
    model: str | None,
    checkpoint: Path | None,
    images: tuple[Path, ...],
    min_dense_iou: float | None,
    junit: Path | None,
    overlay: Path | None,
    as_json: bool,
) -> int:
    """Compare the files in DIR with the PyTorch model: block by block, embeddings, masks, and the engine on a GPU."""
    from .artifacts import output_file
    from .engines.build import DECODER, ENCODER, MANIFEST
    from .engines.manifest import EngineManifest
    from .engines.overlay import draw_overlay
    from .engines.verify import Verifier
    from .export.recipe import ExportRecipe
    from .progress import Stages

    weights = ExportRecipe.merge(None, {"model": model, "checkpoint": checkpoint})
    manifest = EngineManifest.read(folder / MANIFEST) if (folder / MANIFEST).exists() else None
    if manifest is not None:
        manifest.check_sources(folder)
        manifest.check(folder)
    samples, stages = _samples(images), Stages(progress_console)
    with stages("load checkpoint"):
        loaded = weights.load()
    with stages("verify") as advance:
        verifier = Verifier(loaded, folder / ENCODER, folder / DECODER, folder, manifest)
        report = verifier(samples, advance, min_dense_iou)
    if overlay is not None:
        with output_file(overlay) as partial:
            draw_overlay(verifier, partial)
    if as_json:
        _print_json(report.as_json())
    else:
        report.print(console)
    return _finish(report, junit)


@cli.command(
    short_help="Describe an ONNX file, engine or manifest.",
    epilog=_example("sparsesam-export inspect engines/built/nano/manifest.json"),
)
@click.argument("path", type=click.Path(path_type=Path))
@options.as_json
def inspect(path: Path, as_json: bool) -> None:
    """Describe an exported ONNX file, an engine, a manifest, or a folder with them."""
    from .engines.inspect import describe

    found = describe(path)
    if as_json:
        _print_json(found)
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in found.items():
        table.add_row(f"[bold]{name}[/]", escape(value if isinstance(value, str) else json.dumps(value)))
    console.print(table)


@cli.command(
    short_help="Say what is installed and what a build would miss.", epilog=_example("sparsesam-export doctor --json")
)
@options.as_json
def doctor(as_json: bool) -> int:
    """Say what is installed and what a build would miss: packages, builders, GPU, plugin library, memory, disk."""
    from .engines.doctor import examine

    findings = examine()
    if as_json:
        _print_json({"findings": [vars(finding) for finding in findings]})
    else:
        colors = {"ok": "green", "note": "yellow", "problem": "red"}
        width = max(len(finding.name) for finding in findings)
        for finding in findings:  # never wrapped: a remedy is there to be copied
            mark = f"[{colors[finding.status]}]{finding.status:<7}[/]"
            console.print(f"{mark}  {escape(finding.name):<{width}}  {escape(finding.value)}", soft_wrap=True)
            if finding.remedy:
                console.print(f"{'':{width + 11}}-> {escape(finding.remedy)}", soft_wrap=True)
    return 3 if any(finding.status == "problem" for finding in findings) else 0


@cli.command(
    "tune-kernels",
    short_help="Measure how the GPU kernels are best launched here.",
    epilog=_example("sparsesam-export tune-kernels --model vit_h --output launch_settings.toml"),
)
@options.tuned_models
@options.launch_table
@options.as_json
def tune_kernels(models: tuple[str, ...], output: Path, as_json: bool) -> int:
    """Measure how the GPU kernels are best launched on this machine's GPU, and write a table of it.

    Every candidate is checked against PyTorch, then timed on an encoder's real shapes at density 0.4. A table that is
    there already keeps its entries for other GPUs and other models.
    """
    from .engines import tune_kernels as tuning
    from .progress import Stages

    report = tuning.tune_kernels(models, output, Stages(progress_console))
    if as_json:
        _print_json(report.as_json())
    else:
        report.print(console)
    return 0 if report.passed else 1


@cli.command(
    "plugin-path",
    short_help="Print the plugin library's path, for other programs.",
    epilog=_example("sparsesam-export plugin-path --register")
    + "\n\n\b\n  trtexec --loadEngine=encoder.engine --dynamicPlugins=$(sparsesam-export plugin-path)\n"
    "  polygraphy run encoder.engine --trt --plugins $(sparsesam-export plugin-path --register)",
)
@click.option("--register", is_flag=True, help="The library that registers the plugins when it is loaded.")
@options.as_json
def plugin_path(register: bool, as_json: bool) -> None:
    """Print the path of the TensorRT plugin library.

    Programs that load plugin libraries by TensorRT's own interface (trtexec, registry.load_library) take it as it is;
    those that only dlopen (Polygraphy, Triton Inference Server, ONNX Runtime) take the one of --register.
    """
    from .plugins import HOSTS, REGISTER, find_library, tensorrt_major

    library = find_library()
    register_library = library.with_name(REGISTER)
    if (register or as_json) and not register_library.is_file():
        raise EnvironmentProblem(f"{register_library} is not there; build plugins/ again, which makes both libraries.")
    if as_json:
        paths = {"library": str(library), "register": str(register_library)}
        commands = {name: command.format(**paths) for name, command in HOSTS.items()}
        _print_json({**paths, "tensorrt_major": tensorrt_major(library), "commands": commands})
    else:
        click.echo(register_library if register else library)


cli.add_command(benchmark)
cli.add_command(evaluate)
cli.add_command(triton)
cli.add_command(tune)


def _require_builder(builder: str | None) -> None:
    from .engines.builder import load_builder

    if builder is None:
        raise InvalidInput("no builder was chosen; give --builder tensorrt-rtx (needs no GPU) or --builder tensorrt.")
    load_builder(builder)  # what it lacks comes before what its plugins lack


def _engine_options(choices: dict[str, Any], batch: tuple[int, int, int]) -> Any:
    from .engines.options import EngineOptions

    return EngineOptions(**{name: value for name, value in choices.items() if value is not None}, batch=batch)


def _samples(images: tuple[Path, ...]) -> list:
    from .engines.samples import shipped_samples, user_samples

    return user_samples(images) if images else shipped_samples()


def _finish(report: Any, junit: Path | None) -> int:
    from .artifacts import output_file

    if junit is not None:
        with output_file(junit) as partial:
            partial.write_bytes(report.junit())
    return 0 if report.passed else 1


def _words(figures: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def main() -> None:
    """Entry point: the project's exceptions become one line on stderr and an exit code."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        _fail(error.format_message(), error.exit_code)
    except SparseSamError as error:
        click.echo(f"error: {error}", err=True)
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; nothing was written under a final name, and a resumable command goes on.", err=True)
        _fail("interrupted", INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        words = "out of memory; free memory (see `sparsesam-export doctor`), or choose a smaller model or batch."
        click.echo(f"error: {words}", err=True)
        _fail(words, 3)


def _fail(message: str, exit_code: int) -> None:
    if "--json" in sys.argv:
        _print_json({"error": message, "exit_code": exit_code})
    sys.exit(exit_code)
