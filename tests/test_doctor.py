"""The doctor sees what is there and what is not, imports nothing heavy, and survives whatever is broken."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from sparsesam_deploy import doctor
from sparsesam_deploy.doctor import Finding, examine
from sparsesam_deploy.engines import cuda
from sparsesam_deploy.engines.cuda import CudaDevice, cuda_devices
from sparsesam_deploy.errors import EnvironmentProblem
from sparsesam_deploy.optional import EXTRAS, install

from .engines.graphs import install_tensorrt


def findings() -> dict[str, Finding]:
    return {finding.name: finding for finding in examine()}


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(doctor, "cuda_devices", tuple)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(doctor, "cuda_devices", lambda: (CudaDevice("NVIDIA RTX 4090", "SM89"),))
    monkeypatch.setattr(doctor, "driver_version", lambda: "580.65.06")


def absent(monkeypatch, *packages):
    real = metadata.version

    def version(name):
        if name in packages:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)


def test_every_finding_is_there(no_gpu):
    names = {finding.name.partition(" in ")[0] for finding in examine()}
    assert names >= {"python", "torch", "onnx", "onnxruntime", "tensorrt", "tensorrt-rtx", "builder"}
    assert names >= {f"extra {extra}" for extra in EXTRAS if not extra.startswith("onnxruntime")}
    assert names >= {"gpu", "driver", "plugin library", "free memory", "free disk"}


def test_a_machine_without_gpu_is_no_problem(no_gpu, monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    found = findings()
    assert not [finding for finding in found.values() if finding.status == "problem"]
    assert found["gpu"].status == "note"
    assert found["builder"] == Finding("builder", "--builder tensorrt-rtx")
    assert (found["tensorrt"].status, found["tensorrt"].remedy) == ("note", install("tensorrt"))
    assert found["tensorrt"].value.startswith("tensorrt is not installed")


def test_a_gpu_is_named_with_driver_and_both_builders(gpu, monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    install_tensorrt(monkeypatch)
    found = findings()
    assert found["gpu 0"].value == "NVIDIA RTX 4090, compute capability SM89"
    assert found["driver"] == Finding("driver", "580.65.06")
    assert found["builder"].value == "--builder tensorrt or --builder tensorrt-rtx"


def test_no_builder_is_a_problem_with_a_remedy(no_gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert findings()["builder"] == Finding("builder", "none can be used here", "problem", install("rtx"))


def test_torch_without_cuda_on_a_gpu_machine_is_worth_a_note(gpu, monkeypatch):
    monkeypatch.setattr(doctor.runpy, "run_path", lambda path: {"cuda": None})
    torch = findings()["torch"]
    assert torch.status == "note"
    assert "built without CUDA, so it cannot use this machine's GPU" in torch.value


def test_an_absent_torch_is_a_problem(no_gpu, monkeypatch):
    absent(monkeypatch, "torch")
    assert findings()["torch"] == Finding("torch", "not installed", "problem", "pip install torch torchvision")


def test_an_extra_is_listed_with_what_it_lacks(no_gpu, monkeypatch):
    """The extra of two absent packages, the one of a third, and one that is complete."""
    for module in ("jinja2", "ijson", "triton"):
        monkeypatch.setitem(sys.modules, module, None)
    found = findings()
    accuracy = "jinja2, ijson not installed: evaluate, tune, --overlay"
    assert found["extra accuracy"] == Finding("extra accuracy", accuracy, "note", install("accuracy"))
    assert (found["extra triton"].status, found["extra triton"].remedy) == ("note", install("triton"))
    assert found["extra serving"] == Finding("extra serving", f"tritonclient {metadata.version('tritonclient')}")


def test_an_absent_onnx_runtime_is_worth_a_note(no_gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    finding = findings()["onnxruntime"]
    assert finding.status == "note" and finding.value.startswith("not installed: the proof of a build")
    assert install("onnxruntime") in finding.remedy and install("onnxruntime-gpu") in finding.remedy


def test_both_packages_of_onnx_runtime_are_worth_a_note(no_gpu, monkeypatch):
    """They write the same files, so the one installed last is what runs."""
    monkeypatch.setattr(doctor, "_version", lambda package: "1.32.0")
    finding = findings()["onnxruntime"]
    assert finding.status == "note" and "onnxruntime-gpu is there too and" in finding.value
    assert finding.remedy == "pip uninstall -y onnxruntime && pip install --force-reinstall onnxruntime-gpu"


def test_little_memory_and_disk_are_notes(no_gpu, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 30))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 29))
    memory, disk = examine()[-2:]
    assert (memory.value, memory.status) == ("1.0 GiB", "note")
    assert (disk.value, disk.status) == (f"0.5 GiB in {Path.cwd()}", "note")
    assert memory.remedy and disk.remedy


def test_it_never_raises(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("broken")

    for module, name in (
        (doctor, "cuda_devices"),
        (doctor, "load_builder"),
        (doctor.platform, "python_version"),
        (doctor.metadata, "version"),
        (doctor.psutil, "virtual_memory"),
        (doctor.shutil, "disk_usage"),
    ):
        monkeypatch.setattr(module, name, broken)
    found = findings()
    for name in ("python", "torch", "onnx", "builder", "gpu", "memory", "disk"):
        assert found[name].status == "problem"
        assert "RuntimeError: broken" in found[name].value


@pytest.mark.parametrize(
    ("devices", "driver", "package", "expected"),
    [
        (1, "580.65.06", "13.0", Finding("driver", "580.65.06")),
        (0, "580.65.06", "13.0", Finding("driver", "580.65.06", "note")),
        (0, "unknown", None, Finding("driver", "none", "note")),
        (1, "unknown", None, Finding("driver", "unknown", "note", "pip install nvidia-ml-py")),
        (1, "unknown", "13.0", Finding("driver", "unknown", "note")),
    ],
    ids=["known", "no-gpu", "neither", "package-missing", "does-not-answer"],
)
def test_the_driver_and_how_to_learn_its_version(monkeypatch, devices, driver, package, expected):
    monkeypatch.setattr(doctor, "cuda_devices", lambda: devices * (CudaDevice("NVIDIA RTX 4090", "SM89"),))
    monkeypatch.setattr(doctor, "driver_version", lambda: driver)
    monkeypatch.setattr(doctor, "_version", lambda name: package)
    assert list(doctor._gpu())[-1] == expected


def test_without_a_plugin_library_it_says_how_to_get_one(monkeypatch, no_gpu):
    def missing():
        raise EnvironmentProblem("the plugin library is not installed: SPARSESAM_NATIVE=1 pip install x.")

    monkeypatch.setattr(doctor, "find_library", missing)
    finding = findings()["plugin library"]
    assert finding.status == "note" and finding.remedy == "SPARSESAM_NATIVE=1 pip install x"
    assert "--no-plugins" in finding.value


def test_torch_is_not_imported():
    """It takes seconds, and what the doctor says of it is in its metadata."""
    code = "import sys; from sparsesam_deploy.doctor import examine; examine(); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


# --- the driver --------------------------------------------------------------------------------------------------


class FakeDriver:
    """libcuda with two devices, filling its out-parameters as the real one does."""

    devices = ((b"NVIDIA RTX 4090", 8, 9), (b"NVIDIA RTX 5090", 12, 0))

    def __init__(self, status: int = 0) -> None:
        self.status = status

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.devices)

    def cuDeviceGet(self, handle, ordinal):
        handle._obj.value = ordinal

    def cuDeviceGetName(self, name, length, handle):
        name.value = self.devices[handle.value][0]

    def cuDeviceGetAttribute(self, value, attribute, handle):
        value._obj.value = self.devices[handle.value][attribute - 74]


def test_devices_come_from_the_driver(monkeypatch):
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: FakeDriver())
    assert cuda_devices() == (CudaDevice("NVIDIA RTX 4090", "SM89"), CudaDevice("NVIDIA RTX 5090", "SM120"))


def test_a_driver_that_finds_no_gpu(monkeypatch):
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: FakeDriver(status=100))  # CUDA_ERROR_NO_DEVICE
    assert cuda_devices() == ()


def test_no_driver(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert cuda_devices() == ()
