"""ONNX -> serialized engine: one code path over ``tensorrt`` and ``tensorrt_rtx``, whose Python APIs are the same."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from ..artifacts import output_file, sha256_file
from ..errors import CheckFailed, EnvironmentProblem, InvalidInput
from ..export.options import Batch
from ..optional import extra_of, importing, install, module_of
from ..plugin_library import tensorrt_major
from ..progress import Advance
from .audit import AuditReport, audit_network
from .cuda import cuda_devices
from .graph import GraphFacts
from .manifest import PluginRequirement
from .monitor import Messages, logger_into, make_monitor, plain, run_cancellable
from .options import DECODER_PROFILE, RTX_COMPUTE_CAPABILITIES, BuilderName, EngineOptions

_OLDEST: dict[BuilderName, tuple[int, int]] = {"tensorrt": (10, 13), "tensorrt-rtx": (1, 4)}
"""The first release of each package that will do, as in pyproject.toml."""
_REEXPORT = "export it again with `sparsesam-export onnx` or choose another --builder"


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine and what a manifest says about it. ``data`` is the builder's own buffer, not a copy."""

    data: memoryview
    audit: AuditReport
    builder: BuilderName
    builder_version: str
    compute_capabilities: tuple[str, ...]
    plugins: tuple[PluginRequirement, ...]
    warnings: tuple[str, ...]


def load_builder(name: BuilderName) -> ModuleType:
    """Import the builder called ``name``.

    Raises:
        InvalidInput: there is no builder of that name.
        EnvironmentProblem: its package is absent, broken or too old, or ``tensorrt`` finds no CUDA device.
    """
    if name not in get_args(BuilderName):
        raise InvalidInput(f"builder {name!r} is unknown; choose --builder {' or '.join(get_args(BuilderName))}.")
    with importing(name, f"an engine by --builder {name}"):
        trt = importlib.import_module(module_of(name))
    if tuple(map(int, re.findall(r"\d+", trt.__version__)[:2])) < _OLDEST[name]:
        wanted = ".".join(map(str, _OLDEST[name]))
        raise EnvironmentProblem(f"{name} {trt.__version__} is older than {wanted}; {install(extra_of(name))}.")
    if name == "tensorrt" and not cuda_devices():
        raise EnvironmentProblem(
            "tensorrt times kernels on a GPU and there is no CUDA device; use --builder tensorrt-rtx, which needs none."
        )
    return trt


def check_buildable(builder: BuilderName, options: EngineOptions, plugin_library: Path | None) -> ModuleType:
    """Refuse what would fail whatever the graph, before an export is spent on it; returns the builder's module.

    Raises:
        InvalidInput: ``builder`` cannot honour an option.
        EnvironmentProblem: as `load_builder`, or the plugin library is of another release of TensorRT.
    """
    options.check_for(builder)
    if builder == "tensorrt-rtx" and plugin_library is not None:
        raise InvalidInput(
            f"tensorrt-rtx cannot build the plugins of {plugin_library}; leave them out or use --builder tensorrt."
        )
    if options.embed_plugins and plugin_library is None:
        raise InvalidInput("--embed-plugins has no plugins to embed; leave out --no-plugins or --embed-plugins.")
    trt = load_builder(builder)
    if plugin_library is not None and (major := tensorrt_major(plugin_library)) != int(trt.__version__.split(".")[0]):
        raise EnvironmentProblem(
            f"{plugin_library} was built for TensorRT {major}, but {trt.__version__} is installed; build it again with "
            "the headers of that release (docs/tensorrt.md)."
        )
    return trt


def build_engine(
    onnx_path: Path,
    builder: BuilderName,
    options: EngineOptions,
    advance: Advance,
    plugin_library: Path | None = None,
    batch: Batch = (1, 1, 1),
) -> BuiltEngine:
    """Build an engine from an ONNX file of this project; its network is strongly typed, TF32 is off.

    ``plugin_library`` holds the plugins for the custom nodes, each of which must become one; ``None`` builds all of
    them from their function bodies. ``batch`` is the profile of a dynamic batch axis, and otherwise its one size three
    times. ``advance`` is called from this thread; what it raises, like Ctrl-C, cancels the
    build. TensorRT-RTX's parser may abort the whole process on graphs this project does not export, such as one with a
    node whose plugin can be created.

    Raises:
        InvalidInput: the file is unusable, or ``builder`` cannot honour an option.
        EnvironmentProblem: as `load_builder`, or the plugin library or the timing cache does not load.
        CheckFailed: the builder refuses the graph, or its network is not the one that was asked for.
        KeyboardInterrupt: Ctrl-C, once the builder has stopped.
    """
    trt = check_buildable(builder, options, plugin_library)
    advance(0.0, "reading the graph")
    facts = GraphFacts.read(onnx_path)
    return _Build(trt, builder, options, onnx_path, facts, batch).run(advance, plugin_library)


class _Build:
    """One build: TensorRT's objects share one logger and must outlive each other, so they live here together."""

    def __init__(
        self,
        trt: ModuleType,
        builder: BuilderName,
        options: EngineOptions,
        onnx_path: Path,
        facts: GraphFacts,
        batch: Batch,
    ) -> None:
        self.trt, self.name, self.options, self.onnx_path, self.facts = trt, builder, options, onnx_path, facts
        self.batch = batch
        self.messages = Messages()
        self.logger = logger_into(trt, self.messages)
        self.builder = trt.Builder(self.logger)
        # TensorRT 11 is always strongly typed and may drop the flag; 10.x builds weakly typed networks without it.
        flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        self.network = self.builder.create_network(0 if flag is None else 1 << int(flag))

    @property
    def what(self) -> str:
        return f"{self.name} {self.trt.__version__}"

    def run(self, advance: Advance, plugin_library: Path | None) -> BuiltEngine:
        if plugin_library is not None:
            self._load_plugins(plugin_library)
        self._parse()
        audit = audit_network(self.network, self.facts, plugins=plugin_library is not None)
        if not audit.passed:
            raise CheckFailed(f"{self.what} did not take {self.onnx_path} as asked: {'; '.join(audit.findings)}.")
        config = self._config(plugin_library)
        monitor = config.progress_monitor = make_monitor(self.trt)
        cache = self._timing_cache(config)
        plan = run_cancellable(lambda: self.builder.build_serialized_network(self.network, config), monitor, advance)
        if plan is None:
            raise CheckFailed(f"{self.what} could not build {self.onnx_path}: {self.messages.reason()}; {_REEXPORT}.")
        if cache is not None and self.options.timing_cache is not None:
            with output_file(self.options.timing_cache) as partial:
                partial.write_bytes(cache.serialize())
        advance(1.0, "built")
        return BuiltEngine(
            data=memoryview(plan),
            audit=audit,
            builder=self.name,
            builder_version=self.trt.__version__,
            compute_capabilities=self._compute_capabilities(),
            plugins=self._plugins(plugin_library),
            warnings=tuple(self.messages.warnings),
        )

    def _load_plugins(self, library: Path) -> None:
        # The builder's own registry: the process-wide one refuses to load a library for a second build.
        if self.builder.get_plugin_registry().load_library(str(library)) is None:
            raise EnvironmentProblem(
                f"plugin library {library} does not load into {self.what}: {self.messages.reason()}; rebuild it here."
            )

    def _parse(self) -> None:
        self.parser = parser = self.trt.OnnxParser(self.network, self.logger)  # the network borrows its weights
        if not parser.parse_from_file(str(self.onnx_path)):
            error = parser.get_error(0)
            named = f"node {error.node_name() or error.node()} ({error.node_operator()})"
            where = named if error.node() >= 0 else "the graph"
            raise CheckFailed(
                f"{self.what} cannot parse {where} of {self.onnx_path}: {plain(error.desc())}; {_REEXPORT}."
            )

    def _config(self, plugin_library: Path | None) -> Any:
        trt, options = self.trt, self.options
        config = self.builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default: float32 in the graph would be computed in TF32
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.embed_plugins:
            config.plugins_to_serialize = [str(plugin_library)]
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        if options.builder_optimization_level is not None:
            config.builder_optimization_level = options.builder_optimization_level
        if self.name == "tensorrt-rtx":
            self._target(config)
        self._add_profile(config)
        return config

    def _target(self, config: Any) -> None:
        members = self.trt.ComputeCapability.__members__
        known = {name: member for name, member in members.items() if name.startswith("SM")}  # CURRENT would need a GPU
        targets = self._compute_capabilities()
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            if target not in known:
                raise InvalidInput(
                    f"{self.what} cannot build for compute capability {target}; choose among {', '.join(known)}."
                )
            config.set_compute_capability(known[target], index)

    def _compute_capabilities(self) -> tuple[str, ...]:
        if self.name == "tensorrt-rtx":
            return self.options.compute_capabilities or RTX_COMPUTE_CAPABILITIES
        return (cuda_devices()[0].compute_capability,)

    def _add_profile(self, config: Any) -> None:
        sizes = {"batch": self.batch, **DECODER_PROFILE}
        if not any(tensor.axes for tensor in self.facts.inputs):
            self._check_fixed_batch()
            return
        profile = self.builder.create_optimization_profile()
        for tensor in self.facts.inputs:
            if unknown := set(tensor.axes) - set(sizes):
                raise InvalidInput(
                    f"input {tensor.name} of {self.onnx_path} has the dynamic axis {min(unknown)}; only "
                    f"{', '.join(sizes)} have a range here; {_REEXPORT}."
                )
            if tensor.axes:
                ranges = zip(*(sizes[axis] for axis in tensor.axes), strict=True)
                profile.set_shape(tensor.name, *(_filled(tensor.shape, values) for values in ranges))
        config.add_optimization_profile(profile)

    def _check_fixed_batch(self) -> None:
        for tensor in self.facts.inputs:
            if self.batch != (fixed := tensor.shape[:1] * 3):
                asked, there = (",".join(map(str, numbers)) for numbers in (self.batch, fixed))
                raise InvalidInput(
                    f"batch {asked} is not the fixed one of {self.onnx_path}; give {there} or export a dynamic batch."
                )

    def _timing_cache(self, config: Any) -> Any:
        path = self.options.timing_cache
        if path is None:
            return None
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise InvalidInput(f"cannot read timing cache {path}: {reason}; name another.") from error
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise EnvironmentProblem(
                f"timing cache {path} is not of {self.what} and this GPU; delete it or name another."
            )
        return cache

    def _plugins(self, library: Path | None) -> tuple[PluginRequirement, ...]:
        if library is None:
            return ()
        kinds = {(node.op_type, node.plugin_version, node.plugin_namespace) for node in self.facts.custom_nodes}
        sha256 = sha256_file(library)
        return tuple(
            PluginRequirement(
                name=name,
                version=version,
                namespace=namespace,
                library=library.name,
                sha256=sha256,
                embedded=self.options.embed_plugins,
            )
            for name, version, namespace in sorted(kinds)
        )


def _filled(shape: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """``shape`` with its dynamic dimensions replaced by ``sizes``, in order."""
    remaining = iter(sizes)
    return tuple(next(remaining) if dim == -1 else dim for dim in shape)
