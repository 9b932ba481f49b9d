"""The CUDA devices of this machine, asked of the driver itself.

Neither torch nor TensorRT is imported: the answer takes milliseconds and holds for a CPU build of torch too.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

from ..errors import EnvironmentProblem

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


@dataclass(frozen=True)
class CudaDevice:
    """A device by its marketing name and its compute capability, written as TensorRT does (``SM89`` is 8.9)."""

    name: str
    compute_capability: str


def cuda_devices() -> tuple[CudaDevice, ...]:
    """The visible devices (``CUDA_VISIBLE_DEVICES`` applies); none without a driver or without a GPU.

    Raises:
        EnvironmentProblem: there is a driver, and it does not start.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return ()
    if (status := driver.cuInit(0)) != 0:
        if status == _NO_DEVICE:
            return ()
        raise EnvironmentProblem(
            f"the CUDA driver does not start (cuInit gives {status}); run nvidia-smi, and reboot after a driver update."
        )
    count = ctypes.c_int(0)
    driver.cuDeviceGetCount(ctypes.byref(count))
    return tuple(_device(driver, ordinal) for ordinal in range(count.value))


def _device(driver: ctypes.CDLL, ordinal: int) -> CudaDevice:
    handle, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(handle), ordinal)
    driver.cuDeviceGetName(name, len(name), handle)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, handle)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, handle)
    return CudaDevice(name.value.decode(), f"SM{major.value}{minor.value}")
