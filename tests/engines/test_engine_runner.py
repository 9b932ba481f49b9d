"""Where an engine cannot run the reason is given; where it can, whatever it answers is judged."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest

from sparsesam_deploy.engines import cuda, engine_runner
from sparsesam_deploy.engines.cuda import CudaDevice
from sparsesam_deploy.engines.engine_runner import EngineRunner, why_not
from sparsesam_deploy.errors import CheckFailed

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


def test_no_polygraphy(gpu, monkeypatch):
    gpu("SM89")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "polygraphy" else real(name, *rest)
    )
    assert why_not(MANIFEST) == "polygraphy is not installed (pip install polygraphy)"


@pytest.mark.parametrize("compute_capability", MANIFEST.compute_capabilities)
def test_a_fitting_device_is_no_reason(gpu, compute_capability):
    pytest.importorskip("polygraphy")
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
