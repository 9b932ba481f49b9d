"""Real engines, built by TensorRT-RTX without a GPU; `tensorrt` runs the same code with RTX under its name."""

from __future__ import annotations

import signal
import sys
import threading
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from sparsesam_deploy.engines import builder as builder_module
from sparsesam_deploy.engines.builder import EngineOptions, build_engine, load_builder
from sparsesam_deploy.engines.monitor import make_monitor, plain, run_cancellable
from sparsesam_deploy.errors import CheckFailed, EnvironmentProblem, InvalidInput

from .graphs import (
    DIM,
    chain,
    dynamic_batch,
    graph,
    image_batch,
    install_tensorrt,
    matmul_softmax,
    node,
    save,
    stripe_attention,
    weight,
)

RTX = pytest.importorskip("tensorrt_rtx")
pytestmark = [  # both come of running the `tensorrt` path on TensorRT-RTX
    pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX 1.2. Timing cache:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Use del obj instead:DeprecationWarning"),
]


def silent(share: float, words: str) -> None:
    pass


def build(model, folder, builder="tensorrt-rtx", advance=silent, plugin_library=None, **options):
    return build_engine(save(model, folder), builder, EngineOptions(**options), advance, plugin_library)


# --- engines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_rtx_builds_every_precision_for_all_its_gpus(tmp_path, dtype):
    built = build(matmul_softmax(dtype), tmp_path)
    assert built.data.nbytes > 10_000
    assert built.audit.passed
    assert built.audit.dtype == dtype
    assert (built.builder, built.builder_version) == ("tensorrt-rtx", RTX.__version__)
    assert built.compute_capabilities == ("SM80", "SM86", "SM89", "SM120")
    assert built.plugins == ()


def test_compute_capabilities_reach_the_builder(tmp_path):
    one = build(image_batch(), tmp_path, compute_capabilities=("SM120",))
    assert one.compute_capabilities == ("SM120",)
    assert bytes(one.data) != bytes(build(image_batch(), tmp_path).data)


def test_rtx_builds_are_reproducible(tmp_path):
    first, second = (bytes(build(image_batch(), tmp_path).data) for _ in range(2))
    assert first == second


def test_fp32_is_not_computed_in_tf32(tmp_path):
    """RTX writes TF32 into the engine when it is left on, so the bytes differ from those of a default build."""
    path = save(matmul_softmax("fp32"), tmp_path)
    logger = RTX.Logger(RTX.Logger.ERROR)
    default = RTX.Builder(logger)
    network = default.create_network(0)
    parser = RTX.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path))
    config = default.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(RTX.ComputeCapability.SM80, 0)
    with_tf32 = bytes(default.build_serialized_network(network, config))
    ours = build_engine(path, "tensorrt-rtx", EngineOptions(compute_capabilities=("SM80",)), silent)
    assert bytes(ours.data) != with_tf32


def test_function_bodies_are_built_on_purpose(tmp_path):
    built = build(stripe_attention(), tmp_path)
    assert built.audit.custom_nodes == {"block0": "function body", "block1": "function body"}
    islands = tuple(f"scores in block{i} (StripeAttention)" for i in (0, 1))
    assert built.audit.fp32_islands == islands


def test_dynamic_batch_takes_the_profile(tmp_path):
    assert build(dynamic_batch(), tmp_path, batch=(1, 2, 4)).data.nbytes > 10_000


def test_external_weights_are_found(tmp_path):
    path = tmp_path / "encoder.onnx"
    onnx.save(matmul_softmax(), path, save_as_external_data=True, location="encoder.onnx.data", size_threshold=0)
    assert build_engine(path, "tensorrt-rtx", EngineOptions(), silent).data.nbytes > 10_000


def test_progress_grows_and_names_what_happens(tmp_path):
    seen = []
    build(chain(40), tmp_path, advance=lambda share, words: seen.append((share, words)))
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert seen[0] == (0.0, "reading the graph")
    assert seen[-1] == (1.0, "built")
    assert any(0.0 < share < 1.0 for share in shares)
    assert len({words for _, words in seen}) > 2


def test_functions_called_twice_are_nothing_to_warn_of(tmp_path):
    assert build(stripe_attention(), tmp_path).warnings == ()


def test_warnings_are_collected_not_printed(tmp_path, capfd):
    nodes = [node("TopK", ["x", "k"], ["y", "i"], axis=-1)]
    model = graph(nodes, [("x", [1, 256])], [("y", [1, 8])], [onnx.numpy_helper.from_array(np.array([8]), "k")])
    model.graph.output.append(onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [1, 8]))
    assert build(model, tmp_path).warnings == ("Make sure output i has Int64 binding",)
    assert capfd.readouterr() == ("", "")


def test_progress_of_nested_phases():
    monitor = make_monitor(SimpleNamespace(IProgressMonitor=object))
    shares = []
    for event in (
        ("phase_start", "Building", None, 4),
        ("step_complete", "Building", 0),
        ("phase_start", "Timing", "Building", 2),
        ("step_complete", "Timing", 0),
        ("step_complete", "Timing", 1),
        ("phase_finish", "Timing"),
        ("phase_start", "Refitting", "Building", 2),
        ("step_complete", "Refitting", 0),  # a second phase in the same step does not take the first one's share back
        ("step_complete", "unheard of", 0),
        ("step_complete", "Building", 3),
        ("phase_finish", "Building"),
        ("phase_start", "Serializing", None, 2),
        ("step_complete", "Serializing", 0),
    ):
        name, *arguments = event
        assert getattr(monitor, name)(*arguments) in (None, True)
        shares.append(monitor.share)
    assert shares == [0, 0.25, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5, 0.5, 1, 1, 0, 0.5]
    assert monitor.words == "Serializing"


# --- Ctrl-C ------------------------------------------------------------------------------------------------------


def interrupt_main_thread(share, words):
    if words not in ("", "reading the graph"):
        signal.raise_signal(signal.SIGINT)


def raise_value_error(share, words):
    if words not in ("", "reading the graph"):
        raise ValueError("the progress bar broke")


@pytest.mark.parametrize(
    ("advance", "error"),
    [(interrupt_main_thread, KeyboardInterrupt), (raise_value_error, ValueError)],
    ids=["ctrl-c", "broken progress bar"],
)
def test_an_interrupted_build_is_cancelled(tmp_path, monkeypatch, advance, error):
    plans = []

    def spy(work, monitor, advance):
        return run_cancellable(lambda: plans.append(work()), monitor, advance)

    monkeypatch.setattr(builder_module, "run_cancellable", spy)
    with pytest.raises(error):
        build(chain(100), tmp_path, advance=advance)
    assert plans == [None]  # the builder gave up: a build that merely went on to its end would have left a plan
    assert not [thread for thread in threading.enumerate() if thread.name == "engine build"]


def test_an_error_inside_the_build_thread_is_raised_here():
    def fail():
        raise MemoryError("no memory")

    with pytest.raises(MemoryError, match="no memory"):
        run_cancellable(fail, SimpleNamespace(share=0.0, words=""), silent)


# --- what the builders refuse ------------------------------------------------------------------------------------


def without_function():
    return stripe_attention(function=False)


def mixed_types():
    nodes = [node("MatMul", ["x", "w"], ["y"], name="product")]
    return graph(nodes, [("x", [1, DIM], "fp32")], [("y", [1, DIM], "fp32")], [weight("w", (DIM, DIM))])


def large_topk():
    nodes = [node("TopK", ["x", "k"], ["y", "i"], axis=-1)]
    k = onnx.numpy_helper.from_array(np.array([4096]), "k")
    return graph(nodes, [("x", [1, 8192])], [("y", [1, 4096])], [k])


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (without_function, r"cannot parse node block0 \(StripeAttention\) of \S+encoder.onnx: .*Plugin not found"),
        (mixed_types, r"cannot parse node product \(MatMul\) of .* must have same input types"),
        (large_topk, r"could not build \S+encoder.onnx: .*K exceeds the maximum value allowed \(3840\)"),
    ],
)
def test_a_refused_graph_names_node_and_reason(tmp_path, model, sentence):
    with pytest.raises(CheckFailed, match=sentence + ".*; export it again with `sparsesam-export onnx` or") as caught:
        build(model(), tmp_path)
    assert "\n" not in str(caught.value)
    assert "cudaError" not in str(caught.value)


def test_a_workspace_too_small_is_the_builders_reason(tmp_path):
    with pytest.raises(CheckFailed, match="workspace"):
        build(matmul_softmax(), tmp_path, workspace_mib=1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"workspace_mib": 0}, "workspace of 0 MiB is too small"),
        ({"builder_optimization_level": 6}, "builder optimization level 6 is outside 0 to 5"),
        ({"batch": (1, 8, 4)}, "batch 1,8,4 is not 1 <= min <= opt <= max; give three numbers"),
        ({"batch": (0, 1, 1)}, "batch 0,1,1 is not"),
        ({"batch": (1, 1)}, "batch 1,1 is not"),
        ({"compute_capabilities": ()}, "compute capabilities '' are none"),
        ({"compute_capabilities": ("SM80", "SM80")}, "'SM80,SM80' are none or repeat one"),
    ],
)
def test_options_outside_their_range(options, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        EngineOptions(**options)


@pytest.mark.parametrize(
    ("builder", "options", "sentence"),
    [
        ("tensorrt-rtx", {"timing_cache": "t.cache"}, "tensorrt-rtx has no --timing-cache; leave it out"),
        ("tensorrt-rtx", {"builder_optimization_level": 3}, "tensorrt-rtx has no --builder-optimization-level"),
        ("tensorrt-rtx", {"version_compatible": True}, "tensorrt-rtx has no --version-compatible"),
        ("tensorrt-rtx", {"compute_capabilities": ("SM90",)}, r"cannot build for .* SM90; choose among .*SM120"),
        ("tensorrt-rtx", {"compute_capabilities": ("CURRENT",)}, "cannot build for compute capability CURRENT"),
        ("tensorrt-rtx", {"plugin_library": "p.so"}, "tensorrt-rtx cannot build the plugins of p.so"),
        ("tensorrt", {"compute_capabilities": ("SM89",)}, "tensorrt builds for the GPU it finds; leave out"),
        ("tensorrt-rtx", {"batch": (1, 2, 4)}, "batch 1,2,4 is not the fixed one of .*encoder.onnx; give 1,1,1 or"),
    ],
)
def test_what_a_builder_cannot_honour_is_refused(tmp_path, builder, options, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        build(image_batch(), tmp_path, builder, **options)


def test_dynamic_beyond_the_batch_is_refused(tmp_path):
    model = graph([node("Relu", ["x"], ["y"])], [("x", [1, "points", 2])], [("y", [1, "points", 2])])
    with pytest.raises(InvalidInput, match=r"input x of .* is dynamic beyond its batch"):
        build(model, tmp_path)


def other_precision(folder):
    model = matmul_softmax("fp32")
    onnx.helper.set_model_props(model, {"sparsesam.dtype": "fp16"})
    return save(model, folder)


def test_an_engine_of_another_precision_is_not_built(tmp_path):
    with pytest.raises(CheckFailed, match=r"product \(MATRIX_MULTIPLY\) computes in FLOAT, but fp16 was asked for"):
        build_engine(other_precision(tmp_path), "tensorrt-rtx", EngineOptions(), silent)


# --- load_builder ------------------------------------------------------------------------------------------------


def test_unknown_builder():
    with pytest.raises(InvalidInput, match="builder 'openvino' is unknown; choose --builder tensorrt or tensorrt-rtx"):
        load_builder("openvino")


@pytest.mark.parametrize(
    ("builder", "package", "remedy"),
    [
        ("tensorrt", "tensorrt", r"pip install 'sparsesam-deploy\[tensorrt\]'"),
        ("tensorrt-rtx", "tensorrt_rtx", "pip install --upgrade tensorrt-rtx"),
    ],
)
def test_an_absent_builder_says_how_to_install_it(monkeypatch, builder, package, remedy):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EnvironmentProblem, match=f"{builder} is not installed; {remedy}"):
        load_builder(builder)


def test_a_builder_whose_libraries_do_not_load(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(EnvironmentProblem, match=r"tensorrt does not load \(libnvinfer.so.11: cannot open"):
        load_builder("tensorrt")


@pytest.mark.parametrize("version", ["10.12.0.36", "8.6.1", "10.9.0"])
def test_an_old_tensorrt_is_refused(monkeypatch, version):
    install_tensorrt(monkeypatch, version)
    with pytest.raises(EnvironmentProblem, match=f"tensorrt {version} is older than 10.13; pip install"):
        load_builder("tensorrt")


def test_tensorrt_without_a_gpu_is_refused(monkeypatch):
    install_tensorrt(monkeypatch, devices=())
    with pytest.raises(EnvironmentProblem, match="there is no CUDA device; use --builder tensorrt-rtx"):
        load_builder("tensorrt")


# --- the tensorrt path -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "has_flag"), [("10.13.3", True), ("11.1.0", True), ("11.4.0", False)], ids=["10.13", "11.1", "no flag"]
)
def test_tensorrt_networks_are_strongly_typed(tmp_path, monkeypatch, version, has_flag):
    fake = install_tensorrt(monkeypatch, version, strongly_typed_flag=has_flag)
    built = build(stripe_attention(), tmp_path, "tensorrt")
    assert (built.builder, built.builder_version) == ("tensorrt", version)
    assert built.compute_capabilities == ("SM89",)
    assert built.data.nbytes > 10_000
    flag = 1 << int(RTX.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert fake.network_flags == [flag if has_flag else 0]


def test_tensorrt_options_reach_the_builder(tmp_path, monkeypatch):
    fake = install_tensorrt(monkeypatch)
    build(image_batch(), tmp_path, "tensorrt", workspace_mib=512, builder_optimization_level=5)
    (config,) = fake.configs
    assert config.get_memory_pool_limit(RTX.MemoryPoolType.WORKSPACE) == 512 << 20
    assert config.builder_optimization_level == 5
    assert not config.get_flag(RTX.BuilderFlag.TF32)
    assert not config.get_flag(RTX.BuilderFlag.VERSION_COMPATIBLE)


def test_version_compatible_reaches_the_builder(tmp_path, monkeypatch):
    """RTX has no lean runtime to put into the engine, which is how one sees that it was asked for it."""
    install_tensorrt(monkeypatch)
    with pytest.raises(CheckFailed, match="libnvinfer_lean"):
        build(image_batch(), tmp_path, "tensorrt", version_compatible=True)


def test_the_timing_cache_is_read_and_written_back(tmp_path, monkeypatch):
    fake = install_tensorrt(monkeypatch)
    read = []
    real = RTX.IBuilderConfig.create_timing_cache
    monkeypatch.setattr(
        RTX.IBuilderConfig, "create_timing_cache", lambda self, data: read.append(bytes(data)) or real(self, data)
    )
    cache = tmp_path / "caches" / "timing.cache"
    for _ in range(2):
        build(image_batch(), tmp_path, "tensorrt", timing_cache=cache)
    assert read == [b"", cache.read_bytes()]
    assert list(cache.parent.iterdir()) == [cache]
    assert len(fake.configs) == 2


def test_a_foreign_timing_cache_is_refused_and_kept(tmp_path, monkeypatch):
    install_tensorrt(monkeypatch)
    monkeypatch.setattr(RTX.IBuilderConfig, "set_timing_cache", lambda self, cache, ignore_mismatch: ignore_mismatch)
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"of another GPU")
    with pytest.raises(EnvironmentProblem, match=r"timing cache \S+ is not of tensorrt 11.1.0 and this GPU; delete it"):
        build(image_batch(), tmp_path, "tensorrt", timing_cache=cache)
    assert cache.read_bytes() == b"of another GPU"


def test_an_unreadable_timing_cache(tmp_path, monkeypatch):
    install_tensorrt(monkeypatch)
    with pytest.raises(InvalidInput, match=r"cannot read timing cache .*: is a directory; name another"):
        build(image_batch(), tmp_path, "tensorrt", timing_cache=tmp_path)


# --- plugins -----------------------------------------------------------------------------------------------------


def test_a_silent_fallback_to_the_function_body_fails_by_name(tmp_path, monkeypatch):
    install_tensorrt(monkeypatch, loads_plugins=True)
    sentence = (
        r"block0 \(StripeAttention\) fell back to its function body, because the plugin library has no "
        r"StripeAttention version 1 in namespace ''; block1"
    )
    with pytest.raises(CheckFailed, match=sentence):
        build(stripe_attention(), tmp_path, "tensorrt", plugin_library=tmp_path / "libsparsesam.so")


def test_a_plugin_library_that_does_not_load(tmp_path, monkeypatch):
    install_tensorrt(monkeypatch)
    library = tmp_path / "libsparsesam.so"
    with pytest.raises(
        EnvironmentProblem, match=rf"plugin library {library} does not load into tensorrt 11.1.0: .*open"
    ):
        build(stripe_attention(), tmp_path, "tensorrt", plugin_library=library)


def test_the_plugins_of_an_engine_are_named_with_their_library(tmp_path, monkeypatch):
    install_tensorrt(monkeypatch, loads_plugins=True)
    library = tmp_path / "libsparsesam.so"
    library.write_bytes(b"ELF")

    def as_if_plugins(network, asked, plugins):
        return builder_module.AuditReport(
            dtype="fp16", layers={}, precision={}, fp32_islands=(), custom_nodes={}, findings=()
        )

    monkeypatch.setattr(builder_module, "audit_network", as_if_plugins)
    (plugin,) = build(stripe_attention(), tmp_path, "tensorrt", plugin_library=library).plugins
    assert (plugin.name, plugin.version, plugin.namespace) == ("StripeAttention", "1", "")
    assert (plugin.library, plugin.sha256[:8]) == ("libsparsesam.so", "706abe3c")


# --- messages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (ITopKLayer n: K exceeds the maximum "
            "value allowed (3840). In processCheck at /_src/a.cpp:1066 In analyzeShapes at /_src/b.cpp:2825)",
            "ITopKLayer n: K exceeds the maximum value allowed (3840)",
        ),
        ('Assertion failed: mode == "none": not supported.', 'mode == "none": not supported'),
        ("[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/c.cpp:2)", ""),
        ("two\n lines", "two lines"),
        ("x" * 400, "x" * 299 + "…"),
    ],
    ids=["error code", "assertion", "absent driver", "lines", "long"],
)
def test_messages_become_one_plain_line(message, sentence):
    assert plain(message) == sentence
