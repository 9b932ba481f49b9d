"""Where an engine cannot run the reason is given; where it can, whatever it answers is judged."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sparsesam_deploy.engines import cuda, engine_runner
from sparsesam_deploy.engines.cuda import CudaDevice
from sparsesam_deploy.engines.engine_runner import EngineRunner, why_not
from sparsesam_deploy.errors import CheckFailed, EnvironmentProblem

MANIFEST = SimpleNamespace(compute_capabilities=("SM80", "SM89"), builder="tensorrt-rtx")


@pytest.fixture
def gpu(monkeypatch):
    """Pretend to have a GPU of the given compute capability."""

    def install(compute_capability: str):
        device = CudaDevice("NVIDIA Pretence", compute_capability)
        monkeypatch.setattr(engine_runner, "cuda_devices", lambda: (device,))

    return install


def test_no_device(monkeypatch):
    monkeypatch.setattr(engine_runner, "cuda_devices", tuple)
    assert why_not(MANIFEST) == "no device: this machine has no CUDA GPU, the engine is for SM80, SM89"


@pytest.mark.skipif(bool(cuda.cuda_devices()), reason="this machine has a GPU")
def test_no_device_on_this_very_machine():
    assert why_not(MANIFEST).startswith("no device: this machine has no CUDA GPU")


def test_another_compute_capability(gpu):
    gpu("SM75")
    assert why_not(MANIFEST) == "no device: NVIDIA Pretence is SM75, the engine is for SM80, SM89"


def test_a_driver_that_does_not_start(monkeypatch):
    """803 is what a driver that was updated under a running system says."""
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: SimpleNamespace(cuInit=lambda flags: 803))
    assert why_not(MANIFEST).startswith("no device: the CUDA driver does not start (cuInit gives 803); run nvidia-smi")
    with pytest.raises(EnvironmentProblem):
        cuda.cuda_devices()


def test_a_driver_without_a_device(monkeypatch):
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: SimpleNamespace(cuInit=lambda flags: 100))
    assert cuda.cuda_devices() == ()


@pytest.mark.parametrize("compute_capability", MANIFEST.compute_capabilities)
def test_a_fitting_device_is_no_reason(gpu, compute_capability):
    gpu(compute_capability)
    assert why_not(MANIFEST) is None


def test_the_manifest_is_checked_before_the_engine_is_touched(gpu, monkeypatch, tmp_path):
    """Deserialising is the last thing that happens, and a mismatch prevents it."""
    gpu("SM89")
    monkeypatch.setattr(engine_runner, "load_builder", lambda name: SimpleNamespace(__version__="9.9"))
    asked = []

    def check(*arguments):
        asked.append(arguments)
        raise CheckFailed("the engine has changed since its manifest was written.")

    with pytest.raises(CheckFailed, match="has changed"):
        EngineRunner(tmp_path, SimpleNamespace(**vars(MANIFEST), check=check))
    assert asked == [(tmp_path, "9.9", "SM89")]


def test_one_process_serves_one_builder(gpu, monkeypatch, tmp_path):
    """Polygraphy is bound to a runtime when it is imported; the other's engine must not be given to it."""
    from polygraphy import config

    gpu("SM89")
    monkeypatch.setattr(config, "USE_TENSORRT_RTX", False)
    monkeypatch.setattr(engine_runner, "load_builder", lambda name: SimpleNamespace(__version__="9.9"))
    manifest = SimpleNamespace(**vars(MANIFEST), check=lambda *arguments: None)
    with pytest.raises(EnvironmentProblem, match="run this one in a process of its own"):
        EngineRunner(tmp_path, manifest)


def test_an_engine_that_does_not_load_is_a_failed_check(gpu, monkeypatch, tmp_path):
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx")
    from polygraphy import config
    from polygraphy.backend import trt as backend
    from polygraphy.exception import PolygraphyException

    def refuse():
        raise PolygraphyException("the plan is of another version")

    runtime = SimpleNamespace(Logger=tensorrt_rtx.Logger, Runtime=lambda logger: None, __version__="9.9")
    monkeypatch.setattr(engine_runner, "load_builder", lambda name: runtime)
    monkeypatch.setattr(config, "USE_TENSORRT_RTX", True)
    monkeypatch.setattr(backend, "EngineFromBytes", lambda content, runtime: refuse)
    gpu("SM89")
    (tmp_path / "encoder.engine").write_bytes(b"no plan")
    engine = SimpleNamespace(name="encoder.engine")
    manifest = SimpleNamespace(**vars(MANIFEST), check=lambda *arguments: None, plugins=(), engine=engine)
    with pytest.raises(CheckFailed, match=r"encoder\.engine does not run \(the plan is of another version\)"):
        EngineRunner(tmp_path, manifest)
