"""Which NVIDIA GPUs this machine has, asked of the driver library itself: nothing to install.

Source: CUDA Driver API, cuDeviceGetAttribute (attributes 75 and 76 are the compute capability).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from bsst.system import nvidia_driver

__all__ = ["Gpu", "find_gpus"]

_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One device of the driver."""

    name: str
    """Product name."""
    compute_capability: str
    """As in "8.9"."""
    memory_bytes: int
    """Total device memory."""


def find_gpus(library: str = "") -> tuple[Gpu, ...]:
    """GPUs in driver order; () where there is no driver or no device. The library is that of the system by default."""
    try:
        cuda = ctypes.CDLL(library or nvidia_driver())
    except OSError:
        return ()
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(_gpu(cuda, index) for index in range(count.value))


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major.value}.{minor.value}",
        memory_bytes=memory.value,
    )
