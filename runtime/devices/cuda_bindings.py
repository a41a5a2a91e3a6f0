"""The CUDA driver through NVIDIA's cuda-bindings; see `cuda_api.py`.

Run on an H200 with 13.3.1; in the tests over a driver library of ours (`tests/fakes/libcuda`).
Source: https://nvidia.github.io/cuda-python/cuda-bindings/latest/module/driver.html.
"""

from __future__ import annotations

from typing import Any

import cuda.bindings
from cuda.bindings import driver

from bsst.runtime.devices.cuda_api import BLOCKING_SYNC, DISABLE_TIMING, NON_BLOCKING, THREAD_LOCAL, CudaError

__all__ = ["Api"]


class Api:
    """See `CudaApi`."""

    def __init__(self) -> None:
        self.name = f"cuda-bindings {cuda.bindings.__version__}"
        self._device: Any = None
        self._context: Any = None

    def device_count(self) -> int:
        """See `CudaApi`."""
        _call(driver.cuInit, 0)
        return int(_call(driver.cuDeviceGetCount))

    def open(self, index: int) -> tuple[str, str]:
        """See `CudaApi`."""
        self._device = _call(driver.cuDeviceGet, index)
        name = _call(driver.cuDeviceGetName, 256, self._device).split(b"\0")[0].decode(errors="replace")
        kinds = driver.CUdevice_attribute
        major, minor = (
            _call(driver.cuDeviceGetAttribute, kind, self._device)
            for kind in (
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self._context = _call(driver.cuDevicePrimaryCtxRetain, self._device)
        return name, f"{major}.{minor}"

    def push(self) -> None:
        """See `CudaApi`."""
        _call(driver.cuCtxPushCurrent, self._context)

    def pop(self) -> None:
        """See `CudaApi`."""
        _call(driver.cuCtxPopCurrent)

    def release(self) -> None:
        """See `CudaApi`."""
        try:
            self.pop()
        finally:
            _call(driver.cuDevicePrimaryCtxRelease, self._device)

    def memory(self) -> tuple[int, int]:
        """See `CudaApi`."""
        free, total = _call(driver.cuMemGetInfo)
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        """See `CudaApi`."""
        return int(_call(driver.cuMemAlloc, nbytes))

    def free(self, address: int) -> None:
        """See `CudaApi`."""
        _call(driver.cuMemFree, address)

    def allocate_host(self, nbytes: int) -> int:
        """See `CudaApi`."""
        return int(_call(driver.cuMemHostAlloc, nbytes, 0))

    def free_host(self, address: int) -> None:
        """See `CudaApi`."""
        _call(driver.cuMemFreeHost, address)

    def upload(self, address: int, host: int, nbytes: int, stream: int) -> None:
        """See `CudaApi`."""
        _call(driver.cuMemcpyHtoDAsync, address, host, nbytes, stream)

    def download(self, host: int, address: int, nbytes: int, stream: int) -> None:
        """See `CudaApi`."""
        _call(driver.cuMemcpyDtoHAsync, host, address, nbytes, stream)

    def make_stream(self) -> int:
        """See `CudaApi`."""
        return int(_call(driver.cuStreamCreate, NON_BLOCKING))

    def destroy_stream(self, stream: int) -> None:
        """See `CudaApi`."""
        _call(driver.cuStreamDestroy, stream)

    def wait(self, stream: int, event: int) -> None:
        """See `CudaApi`."""
        _call(driver.cuStreamWaitEvent, stream, event, 0)

    def make_event(self, *, timed: bool) -> int:
        """See `CudaApi`."""
        return int(_call(driver.cuEventCreate, BLOCKING_SYNC | (0 if timed else DISABLE_TIMING)))

    def destroy_event(self, event: int) -> None:
        """See `CudaApi`."""
        _call(driver.cuEventDestroy, event)

    def record(self, event: int, stream: int) -> None:
        """See `CudaApi`."""
        _call(driver.cuEventRecord, event, stream)

    def synchronize(self, event: int) -> None:
        """See `CudaApi`."""
        _call(driver.cuEventSynchronize, event)

    def passed(self, event: int) -> bool:
        """See `CudaApi`."""
        status = driver.cuEventQuery(event)[0]
        if status == driver.CUresult.CUDA_ERROR_NOT_READY:
            return False
        _check("cuEventQuery", status)
        return True

    def elapsed(self, start: int, end: int) -> float:
        """See `CudaApi`."""
        return float(_call(driver.cuEventElapsedTime, start, end))

    def begin_capture(self, stream: int) -> None:
        """See `CudaApi`."""
        _call(driver.cuStreamBeginCapture, stream, driver.CUstreamCaptureMode(THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        """See `CudaApi`."""
        graph = _call(driver.cuStreamEndCapture, stream)
        try:
            return int(_call(driver.cuGraphInstantiate, graph, 0))
        finally:
            _call(driver.cuGraphDestroy, graph)

    def launch(self, graph: int, stream: int) -> None:
        """See `CudaApi`."""
        _call(driver.cuGraphLaunch, graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """See `CudaApi`."""
        _call(driver.cuGraphExecDestroy, graph)


def _call(function: Any, *arguments: Any) -> Any:
    """Result of a call: nothing, a value or a tuple."""
    name = function.__name__
    try:
        status, *values = function(*arguments)
    except RuntimeError as error:  # no driver library, or one that is older than the package and lacks the call
        raise CudaError(f"{name} failed: {error}") from error
    _check(name, status)
    return values[0] if len(values) == 1 else tuple(values)


def _check(name: str, status: Any) -> None:
    if status != driver.CUresult.CUDA_SUCCESS:
        problem, text = driver.cuGetErrorString(status)
        known = problem == driver.CUresult.CUDA_SUCCESS and text
        words = text.decode(errors="replace") if known else str(status)
        raise CudaError(f"{name} failed: {words}", out_of_memory=status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY)
