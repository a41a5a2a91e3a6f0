"""The CUDA driver through pycuda; see `cuda_api.py`.

A context belongs to the thread that pushed it, and pycuda aborts the process when a thread ends with one left on its
stack; it lets go of an object silently where its context is not current. So nothing is left to its collector: what it
owns is kept here under the driver's handle until it is destroyed. pycuda has no graphs (inducer/pycuda#343 is open):
those calls go to the driver library itself.

Run on an H200. Source: https://documen.tician.de/pycuda/driver.html; cuda.hpp of pycuda 2026.1 (`context`,
`primary_context`); CUDA Driver API, cuDevicePrimaryCtxRelease ("does not pop the context from stack in any
circumstances").
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pycuda
import pycuda.driver as driver

from bsst.runtime.devices.cuda_api import BLOCKING_SYNC, DISABLE_TIMING, NON_BLOCKING, THREAD_LOCAL, CudaError
from bsst.system import nvidia_driver

__all__ = ["Api"]


class Api:
    """See `CudaApi`."""

    def __init__(self) -> None:
        self.name = f"pycuda {pycuda.VERSION_TEXT}"
        self._context: Any = None
        self._owned: dict[int, Any] = {}
        """Streams by handle, device memory and page-locked arrays by address."""
        self._events: dict[int, Any] = {}
        """By a number of ours."""
        self._next_event = 0

    def device_count(self) -> int:
        """See `CudaApi`."""
        with _errors():
            driver.init()
            return int(driver.Device.count())

    def open(self, index: int) -> tuple[str, str]:
        """See `CudaApi`."""
        with _errors():
            device = driver.Device(index)
            name, capability = str(device.name()), device.compute_capability()
            self._context = device.retain_primary_context()
        return name, ".".join(map(str, capability))

    def push(self) -> None:
        """See `CudaApi`."""
        with _errors():
            self._context.push()

    def pop(self) -> None:
        """See `CudaApi`."""
        with _errors():
            self._context.pop()

    def release(self) -> None:
        """See `CudaApi`."""
        # To release a primary context does not pop it, and pycuda takes it off its own stack alone: it would stay
        # current on this thread, destroyed, for whatever library comes next.
        _library().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        with _errors():
            self._context.detach()  # releases it here because pycuda holds it for current

    def memory(self) -> tuple[int, int]:
        """See `CudaApi`."""
        with _errors():
            free, total = driver.mem_get_info()
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        """See `CudaApi`."""
        with _errors():
            memory = driver.mem_alloc(nbytes)
        self._owned[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        """See `CudaApi`."""
        with _errors():
            self._owned.pop(address).free()

    def allocate_host(self, nbytes: int) -> int:
        """See `CudaApi`."""
        with _errors():
            array = driver.pagelocked_empty(nbytes, np.uint8)
        self._owned[array.ctypes.data] = array
        return int(array.ctypes.data)

    def free_host(self, address: int) -> None:
        """See `CudaApi`."""
        with _errors():
            self._owned.pop(address).base.free()

    def upload(self, address: int, host: int, nbytes: int, stream: int) -> None:
        """See `CudaApi`."""
        with _errors():
            driver.memcpy_htod_async(address, _bytes(host, nbytes), self._owned[stream])

    def download(self, host: int, address: int, nbytes: int, stream: int) -> None:
        """See `CudaApi`."""
        with _errors():
            driver.memcpy_dtoh_async(_bytes(host, nbytes), address, self._owned[stream])

    def make_stream(self) -> int:
        """See `CudaApi`."""
        with _errors():
            stream = driver.Stream(NON_BLOCKING)
        self._owned[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        """See `CudaApi`."""
        with _errors():
            del self._owned[stream]

    def wait(self, stream: int, event: int) -> None:
        """See `CudaApi`."""
        with _errors():
            self._owned[stream].wait_for_event(self._events[event])

    def make_event(self, *, timed: bool) -> int:
        """See `CudaApi`."""
        with _errors():
            event = driver.Event(BLOCKING_SYNC | (0 if timed else DISABLE_TIMING))
        self._next_event += 1
        self._events[self._next_event] = event
        return self._next_event

    def destroy_event(self, event: int) -> None:
        """See `CudaApi`."""
        with _errors():
            del self._events[event]

    def record(self, event: int, stream: int) -> None:
        """See `CudaApi`."""
        with _errors():
            self._events[event].record(self._owned[stream])

    def synchronize(self, event: int) -> None:
        """See `CudaApi`."""
        with _errors():
            self._events[event].synchronize()

    def passed(self, event: int) -> bool:
        """See `CudaApi`."""
        with _errors():
            return bool(self._events[event].query())

    def elapsed(self, start: int, end: int) -> float:
        """See `CudaApi`."""
        with _errors():
            return float(self._events[end].time_since(self._events[start]))

    def begin_capture(self, stream: int) -> None:
        """See `CudaApi`."""
        _check("cuStreamBeginCapture", _library().cuStreamBeginCapture_v2(ctypes.c_void_p(stream), THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        """See `CudaApi`."""
        library, graph, executable = _library(), ctypes.c_void_p(), ctypes.c_void_p()
        _check("cuStreamEndCapture", library.cuStreamEndCapture(ctypes.c_void_p(stream), ctypes.byref(graph)))
        try:
            flags = ctypes.c_ulonglong(0)
            status = library.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, flags)
            _check("cuGraphInstantiate", status)
        finally:
            library.cuGraphDestroy(graph)
        return executable.value or 0

    def launch(self, graph: int, stream: int) -> None:
        """See `CudaApi`."""
        _check("cuGraphLaunch", _library().cuGraphLaunch(ctypes.c_void_p(graph), ctypes.c_void_p(stream)))

    def destroy_graph(self, graph: int) -> None:
        """See `CudaApi`."""
        _check("cuGraphExecDestroy", _library().cuGraphExecDestroy(ctypes.c_void_p(graph)))


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except driver.Error as error:
        raise CudaError(str(error), out_of_memory=isinstance(error, driver.MemoryError)) from error


def _bytes(address: int, nbytes: int) -> Any:
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


def _library() -> Any:
    return ctypes.CDLL(nvidia_driver())  # pycuda has loaded it


def _check(call: str, status: int) -> None:
    if status != 0:
        text = ctypes.c_char_p()
        _library().cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
        raise CudaError(f"{call} failed: {(text.value or b'error %d' % status).decode(errors='replace')}")
