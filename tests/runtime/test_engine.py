"""Engines: what is checked before one is touched, in which order, and that it works in torch's own memory."""

from __future__ import annotations

import hashlib
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparsesam_deploy.engines import builder, opening
from sparsesam_deploy.engines.cuda import CudaDevice
from sparsesam_deploy.engines.manifest import MANIFEST, EngineManifest, FileRecord, PluginRequirement
from sparsesam_deploy.engines.opening import open_engine
from sparsesam_deploy.engines.options import EngineOptions
from sparsesam_deploy.errors import CheckFailed, EnvironmentProblem
from sparsesam_deploy.runtime.engine import EngineRuntime
from tests.runtime.fake_tensorrt import PLAN, SCALE, FakeTensorRT

STREAM = 0xC0FFEE
LIBRARY = b"a plugin library"


@pytest.fixture
def install(monkeypatch):
    """Pretend to have GPUs and TensorRT."""

    def install(compute_capability: str = "SM89", devices: int = 1, **choices: Any) -> FakeTensorRT:
        fake = FakeTensorRT(**choices)
        found = (CudaDevice("NVIDIA Pretence", compute_capability),) * devices
        monkeypatch.setitem(sys.modules, "tensorrt", fake)
        for module in (builder, opening):
            monkeypatch.setattr(module, "cuda_devices", lambda: found)
        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=STREAM))
        return fake

    return install


@pytest.fixture
def manifest(dense, tmp_path) -> EngineManifest:
    """Of an engine of ``tensorrt`` with two plugins of one library, in ``tmp_path``."""
    (tmp_path / "encoder.engine").write_bytes(PLAN)
    (tmp_path / "libplugins.so").write_bytes(LIBRARY)
    sha256 = hashlib.sha256(LIBRARY).hexdigest()
    plugins = tuple(
        PluginRequirement(name=name, version="1", namespace="", library="libplugins.so", sha256=sha256)
        for name in ("StripeAttention", "RoutedMlp")
    )
    changes = {
        "builder": "tensorrt",
        "builder_version": "11.1.0",
        "compute_capabilities": ("SM89",),
        "engine": FileRecord.of(tmp_path / "encoder.engine"),
        "plugins": plugins,
    }
    return EngineManifest.read(dense.folder / MANIFEST).model_copy(update=changes)


def opened(folder: Path, manifest: EngineManifest):
    return open_engine(folder, manifest, manifest.engine)


# --- opening -----------------------------------------------------------------------------------------------------


def test_plugins_come_before_the_engine_and_once(install, manifest, tmp_path):
    fake = install()
    found = opened(tmp_path, manifest)
    assert fake.diary == [("plugins", str(tmp_path / "libplugins.so")), ("engine", False)]
    assert found.kernels == "tensorrt 11.1.0 on NVIDIA Pretence"


def test_an_engine_for_later_releases_may_bring_its_own_runtime(install, manifest, tmp_path):
    fake = install()
    opened(tmp_path, manifest.model_copy(update={"engine_options": EngineOptions(version_compatible=True)}))
    assert fake.diary[-1] == ("engine", True)


def test_embedded_plugins_are_allowed_and_not_loaded(install, manifest, tmp_path):
    fake = install()
    (tmp_path / "libplugins.so").unlink()
    plugins = tuple(plugin.model_copy(update={"embedded": True}) for plugin in manifest.plugins)
    opened(tmp_path, manifest.model_copy(update={"plugins": plugins}))
    assert fake.diary == [("engine", True)]


@pytest.mark.parametrize(
    ("place", "change", "sentence"),
    [
        ({"compute_capability": "SM90"}, {}, "encoder.engine was built for SM89, but this GPU is SM90; rebuild"),
        ({}, {"builder_version": "10.13.0"}, "built by tensorrt 10.13.0, but 11.1.0 is installed; rebuild"),
        ({}, {"engine": b"another plan"}, "encoder.engine has .*; rebuild with"),
        ({}, {"plugins": b"another library"}, "needs the plugins RoutedMlp, StripeAttention of another libplugins.so"),
    ],
    ids=["gpu", "runtime", "engine", "plugins"],
)
def test_a_mismatch_is_refused_before_anything_is_loaded(install, manifest, tmp_path, place, change, sentence):
    fake = install(**place)
    for name, key in (("encoder.engine", "engine"), ("libplugins.so", "plugins")):
        if key in change:
            (tmp_path / name).write_bytes(change.pop(key))
    with pytest.raises(CheckFailed, match=sentence):
        opened(tmp_path, manifest.model_copy(update=change))
    assert fake.diary == []


@pytest.mark.parametrize(
    ("fails", "error", "sentence"),
    [
        (
            "plugins",
            EnvironmentProblem,
            r"libplugins.so does not load \(plugins is not to be had\); rebuild it on this",
        ),
        (
            "engine",
            CheckFailed,
            r"encoder.engine does not load \(engine is not to be had\); rebuild it on this machine",
        ),
    ],
)
def test_what_does_not_load_is_named_with_the_runtimes_reason(install, manifest, tmp_path, fails, error, sentence):
    install(fails=fails)
    with pytest.raises(error, match=sentence):
        opened(tmp_path, manifest)


def test_without_a_gpu_the_other_backends_are_named(install, manifest, tmp_path):
    install(devices=0)
    with pytest.raises(
        EnvironmentProblem, match=r"there is no cuda:0: 0 GPUs are visible here; use one of them, or the onnx"
    ):
        opened(tmp_path, manifest)


# --- running -----------------------------------------------------------------------------------------------------


@pytest.fixture
def runtime(manifest, tmp_path):
    """On the host, where the pretended GPU has its memory."""

    def make() -> EngineRuntime:
        runtime = EngineRuntime(tmp_path, manifest, torch.device("cuda", 0))
        runtime.device = torch.device("cpu")
        return runtime

    return make


@pytest.mark.parametrize("batch", [1, 2])
def test_the_engine_reads_and_writes_torchs_memory_in_torchs_stream(install, runtime, batch):
    fake = install()
    image = torch.randn(batch, 3, 1024, 1024, generator=torch.Generator().manual_seed(batch))
    (found,) = runtime().new_run()(image)
    assert torch.equal(found.flatten(), SCALE * image.flatten()[: found.numel()])
    assert found.shape == (batch, 256, 64, 64)
    assert fake.diary[2:] == [
        ("context",),
        ("shape", "image", (batch, 3, 1024, 1024)),
        ("address", "image", image.data_ptr()),
        ("address", "image_embeddings", found.data_ptr()),
        ("run", STREAM),
    ]


def test_the_engine_writes_float32_whatever_torchs_default_is(install, runtime):
    """Of half precision too; but then a failure would write beyond the end and take pytest along."""
    install()
    image, run = torch.ones(1, 3, 1024, 1024), runtime().new_run()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        (found,) = run(image)
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == torch.float32 and (found == SCALE).all()


def test_sam_hq_answers_in_the_order_of_the_protocol(install, runtime):
    """Whatever the order of the engine's outputs."""
    install(outputs=("interm_embeddings", "image_embeddings"))
    image = torch.randn(2, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    found = runtime().new_run()(image)
    assert [tuple(value.shape) for value in found] == [(2, 256, 64, 64), (2, 2, 64, 64, 64)]
    for value in found:
        assert torch.equal(value.flatten(), SCALE * image.flatten()[: value.numel()])


def test_answers_are_not_written_again(install, runtime):
    install()
    run = runtime().new_run()
    first, second = run(torch.ones(1, 3, 1024, 1024)), run(torch.zeros(1, 3, 1024, 1024))
    assert (first[0] == SCALE).all() and (second[0] == 0).all()


def test_each_run_has_a_context_of_its_own(install, runtime):
    fake = install()
    shared = runtime()
    shared.new_run(), shared.new_run()
    assert [name for name, *_ in fake.diary] == ["plugins", "engine", "context", "context"]


@pytest.mark.parametrize(
    ("fails", "error", "sentence"),
    [
        (
            "context",
            EnvironmentProblem,
            r"no room for its working memory \(context is not to be had\); free GPU memory",
        ),
        ("shape", CheckFailed, r"encoder.engine does not run \(shape is not to be had\); rebuild"),
        ("address", CheckFailed, r"encoder.engine does not run \(address is not to be had\); rebuild"),
        ("run", CheckFailed, r"encoder.engine does not run \(run is not to be had\); rebuild"),
    ],
)
def test_a_step_that_fails_ends_the_run(install, runtime, fails, error, sentence):
    fake = install(fails=fails)
    with pytest.raises(error, match=sentence):
        runtime().new_run()(torch.zeros(1, 3, 1024, 1024))
    assert fails == "run" or "run" not in [name for name, *_ in fake.diary]
