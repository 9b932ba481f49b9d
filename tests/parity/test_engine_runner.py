"""Where an engine cannot run the reason is given; where it can, whatever it answers is judged."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sparsesam_deploy.engines import cuda
from sparsesam_deploy.engines.cuda import CudaDevice
from sparsesam_deploy.errors import CheckFailed, EnvironmentProblem
from sparsesam_deploy.parity import engine_runner
from sparsesam_deploy.parity.engine_runner import EngineRunner, why_not

MANIFEST = SimpleNamespace(
    compute_capabilities=("SM80", "SM89"), builder="tensorrt-rtx", engine=SimpleNamespace(name="encoder.engine")
)


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


def test_one_process_serves_one_builder(monkeypatch, tmp_path):
    """Polygraphy is bound to a runtime when it is imported; the other's engine must not be given to it."""
    from polygraphy import config

    monkeypatch.setattr(config, "USE_TENSORRT_RTX", False)
    with pytest.raises(EnvironmentProblem, match="use a process of its own for each"):
        EngineRunner(tmp_path, MANIFEST, MANIFEST.engine)


def test_an_engine_that_does_not_run_is_a_failed_check(monkeypatch, tmp_path):
    from polygraphy import config
    from polygraphy.backend import trt as backend
    from polygraphy.exception import PolygraphyException

    class Refuses:
        def __init__(self, engine):
            assert engine == "the engine"

        def __enter__(self):
            raise PolygraphyException("out of memory\nsecond line")

        def __exit__(self, *_):
            """Never entered."""

    opened = SimpleNamespace(engine="the engine", path=tmp_path / "encoder.engine", kernels="rtx on a GPU")
    monkeypatch.setattr(config, "USE_TENSORRT_RTX", True)
    monkeypatch.setattr(backend, "TrtRunner", Refuses)
    monkeypatch.setattr(engine_runner, "open_engine", lambda *arguments: opened)
    runner = EngineRunner(tmp_path, MANIFEST, MANIFEST.engine)
    with pytest.raises(
        CheckFailed, match=r"encoder\.engine does not run \(out of memory\); rebuild it on this machine"
    ):
        runner.run({})
