"""The `tensorrt` path without TensorRT: the same code with TensorRT-RTX under its name."""

from __future__ import annotations

import sys

import pytest

from sparsesam_deploy.engines import builder as builder_module
from sparsesam_deploy.engines.builder import load_builder
from sparsesam_deploy.errors import CheckFailed, EnvironmentProblem, InvalidInput

from .graphs import build, image_batch, install_tensorrt, stripe_attention

RTX = pytest.importorskip("tensorrt_rtx")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX 1.2. Timing cache:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Use del obj instead:DeprecationWarning"),
]


# --- load_builder ------------------------------------------------------------------------------------------------


def test_unknown_builder():
    with pytest.raises(InvalidInput, match="builder 'openvino' is unknown; choose --builder tensorrt or tensorrt-rtx"):
        load_builder("openvino")


@pytest.mark.parametrize(
    ("builder", "module", "extra"), [("tensorrt", "tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx", "rtx")]
)
def test_an_absent_builder_says_how_to_install_it(monkeypatch, builder, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    expected = rf"{builder} is not installed, .* --builder {builder} .*pip install 'sparsesam-deploy\[{extra}\]'\.$"
    with pytest.raises(EnvironmentProblem, match=expected):
        load_builder(builder)


def test_a_builder_whose_libraries_do_not_load(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(
        EnvironmentProblem, match=r"tensorrt does not load \(libnvinfer.so.11: .*--force-reinstall tensorrt"
    ):
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


def test_embedded_plugins_reach_the_builder_and_the_manifest(tmp_path, monkeypatch):
    fake = install_tensorrt(monkeypatch, loads_plugins=True)
    library = tmp_path / "libsparsesam.so"
    library.write_bytes(b"ELF")
    monkeypatch.setattr(
        builder_module,
        "audit_network",
        lambda *_, plugins: builder_module.AuditReport(
            dtype="fp16", layers={}, precision={}, fp32_islands=(), custom_nodes={}, findings=()
        ),
    )
    (plugin,) = build(stripe_attention(), tmp_path, "tensorrt", plugin_library=library, embed_plugins=True).plugins
    assert plugin.embedded
    assert fake.configs[-1].plugins_to_serialize == [str(library)]


def test_nothing_to_embed_is_refused(tmp_path, monkeypatch):
    install_tensorrt(monkeypatch)
    with pytest.raises(InvalidInput, match="--embed-plugins has no plugins to embed"):
        build(stripe_attention(), tmp_path, "tensorrt", embed_plugins=True)


def test_a_plugin_library_for_another_major_is_refused(tmp_path, monkeypatch):
    install_tensorrt(monkeypatch)
    monkeypatch.setattr(builder_module, "tensorrt_major", lambda library: 10)
    with pytest.raises(
        EnvironmentProblem, match=r"was built for TensorRT 10, but 11\.1\.0 is installed; build it again"
    ):
        build(stripe_attention(), tmp_path, "tensorrt", plugin_library=tmp_path / "libsparsesam.so")
