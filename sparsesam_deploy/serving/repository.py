"""Write a Triton Inference Server repository: whole models and versions, or nothing."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from ..artifacts import output_folder, sha256_file
from ..errors import InvalidInput
from ..plugin_library import REGISTER
from ..progress import Stages
from .config import schema
from .launch import DOCKERFILE, Launch, readme
from .options import ServingOptions
from .pipeline import ENSEMBLES, PYTHON_MODELS, model_set
from .publish import publish, undo_interrupted
from .source import Network, Platform, Source, check_alike, check_platform

CONFIG = "config.pbtxt"
ONNX, PYTHON, KEPT = "model.onnx", "model.py", ".keep"
"""Triton's own names; an ensemble has an empty version folder, which an object store would lose without a file."""


@dataclass(frozen=True)
class Repository:
    """What was written: model names, how to start the server, and whether it joins requests to batches.

    ``kept`` are files beside the models that were there already with another content, and were left as they are.
    """

    output: Path
    options: ServingOptions
    models: tuple[str, ...]
    max_batch_size: int
    launch: Launch
    kept: tuple[Path, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "output": str(self.output),
            "name": self.options.name,
            "version": self.options.version,
            "models": list(self.models),
            "max_batch_size": self.max_batch_size,
            "server_command": shlex.join(self.launch.server),
            "docker_build": self.launch.build,
            "docker_run": self.launch.docker,
            "container": self.launch.container,
            "kept": list(map(str, self.kept)),
        }


def write_repository(
    folders: Sequence[Path],
    output: Path,
    options: ServingOptions,
    stages: Stages,
    registration_library: Path | None = None,
) -> Repository:
    """Serve the builds in ``folders``, one model for one or several GPUs, from the repository ``output``.

    A repository that is there already gets another model, or another version of this one; nothing in it is overwritten.
    What a run that was interrupted has left in it is removed.

    Args:
        registration_library: ``libsparsesam_plugins_register.so``, if it is not in the first folder.

    Raises:
        InvalidInput: folders that cannot be served so or together, or a model and version that are there already.
        CheckFailed: files that do not match their manifest.
        EnvironmentProblem: tritonclient is missing.
    """
    schema()
    with stages("check files"):
        sources = [Source.read(folder) for folder in folders]
        check_platform(sources, options.platform, options.decoder_platform)
        check_alike(sources)
        first, manifest = sources[0].folder, sources[0].manifest
        assert manifest.decoder_onnx is not None  # see check_platform
        encoder = Network.read(first / manifest.encoder_onnx.name, "encoder")
        decoder = Network.read(first / manifest.decoder_onnx.name, "decoder")
    plans = {capability: _plan(source) for source in sources for capability in source.capabilities}
    models = model_set(manifest, encoder, decoder, options, plans)
    launch = Launch.of(output, manifest, options)
    names = tuple(config.name for config in models.values())
    with output_folder(output) as folder, stages("copy files"):
        undo_interrupted(output)
        configs = {config.name: text_format.MessageToString(config) for config in models.values()}
        _check_free(output, configs, options.version)
        libraries = _libraries(sources[0], options.platform, registration_library)
        _check_libraries(output, libraries)
        for name, text in configs.items():
            (folder / name / str(options.version)).mkdir(parents=True)
            (folder / name / CONFIG).write_text(text, encoding="utf-8")
        for part, contents in _content(sources, options).items():
            for name, source in contents.items():
                shutil.copyfile(source, folder / models[part].name / str(options.version) / name)
        for part in ENSEMBLES:
            (folder / models[part].name / str(options.version) / KEPT).touch()
        for library in libraries.values():
            shutil.copyfile(library, folder / library.name)
        (folder / "Dockerfile").write_text(DOCKERFILE, encoding="utf-8")
        document = folder / f"README-{options.name}-{options.version}.md"
        document.write_text(readme(launch, manifest, options, names), encoding="utf-8")
        kept = publish(folder, output, options.version)
    return Repository(output, options, names, models["encoder"].max_batch_size, launch, kept)


def _content(sources: Sequence[Source], options: ServingOptions) -> dict[str, dict[str, Path]]:
    """Where the files of each part of the repository come from, by the names they get."""
    first = sources[0]
    content: dict[str, dict[str, Path]] = {part: {} for part in ("encoder", "decoder", *PYTHON_MODELS)}
    manifest = first.manifest
    assert manifest.decoder_onnx is not None  # see check_platform
    for part, platform, network, engine in (
        ("encoder", options.platform, manifest.encoder_onnx, "engine"),
        ("decoder", options.decoder_platform, manifest.decoder_onnx, "decoder_engine"),
    ):
        if platform == "onnxruntime":
            content[part][ONNX] = first.folder / network.name
        else:
            content[part] = {_plan(source): source.folder / getattr(source.manifest, engine).name for source in sources}
    if options.platform == "onnxruntime":
        content["encoder"] |= {file.name: first.folder / file.name for file in manifest.weight_files}
    for part in PYTHON_MODELS:
        content[part][PYTHON] = Path(str(files("sparsesam_deploy.serving.models") / f"{part}.py"))
    return content


def _plan(source: Source) -> str:
    """``sm90.plan``: never ``model.plan``, which Triton would load on a GPU that no engine is for."""
    return "_".join(source.manifest.compute_capabilities).lower() + ".plan"


def _libraries(source: Source, platform: Platform, registration: Path | None) -> dict[str, Path]:
    """The plugin library and the one that registers it, by name; none where no engine has any to load.

    Raises:
        InvalidInput: the registering library is not to be found, or named and not needed.
    """
    if platform != "tensorrt_plan" or not source.manifest.libraries:
        if registration is not None:
            raise InvalidInput(
                f"{registration} is not needed: no engine that is served loads plugins from a library; leave it out."
            )
        return {}
    found = source.folder / REGISTER if registration is None else registration
    if not found.is_file() or found.name != REGISTER:
        raise InvalidInput(
            f"{found} is no {REGISTER}, through which Triton gets the engine's plugins; name the one that "
            "was built with the plugin library with --registration-library."
        )
    return {name: source.folder / name for name in source.manifest.libraries} | {REGISTER: found}


def _check_libraries(output: Path, libraries: Mapping[str, Path]) -> None:
    for name, library in libraries.items():
        if (output / name).is_file() and sha256_file(output / name) != sha256_file(library):
            raise InvalidInput(
                f"{output / name}, which the engines there need, is another library than {library}; a server has one "
                "for all of its engines, so choose another --output."
            )


def _check_free(output: Path, configs: Mapping[str, str], version: int) -> None:
    for name, text in configs.items():
        there = output / name
        if (there / str(version)).exists():
            raise InvalidInput(
                f"{there} has a version {version}; give --version {version + 1}, --name, or another --output."
            )
        if there.exists() and (not (there / CONFIG).is_file() or (there / CONFIG).read_text("utf-8") != text):
            raise InvalidInput(
                f"{there / CONFIG} is for all versions of {name}, and these options would change it; choose another "
                "--name or --output."
            )
