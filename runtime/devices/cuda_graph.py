"""CUDA graphs of whatever a library enqueues on a stream: captured once, launched as one call.

pycuda has no graphs (inducer/pycuda#343 is open), so the driver library itself is called. The capture is thread
local: other threads may allocate or synchronise meanwhile.
Source: CUDA Driver API, "Stream Management" and "Graph Management".
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

__all__ = ["CaptureError", "CudaGraph", "capture", "load_driver"]

_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL."""


class CaptureError(Exception):
    """The driver or the library refuses; the stream is usable as before."""


class CudaGraph:
    """An executable graph; launches read and write the addresses it was captured with."""

    def __init__(self, executable: ctypes.c_void_p) -> None:
        self._executable = executable

    def launch(self, stream: int) -> None:
        """Append one run of the graph to a stream.

        Raises:
            CaptureError: the driver refuses.
        """
        _check(load_driver().cuGraphLaunch(self._executable, ctypes.c_void_p(stream)), "cuGraphLaunch")

    def close(self) -> None:
        """Free it, once a launch in progress has ended; a second call does nothing."""
        if self._executable:
            load_driver().cuGraphExecDestroy(self._executable)
            self._executable = ctypes.c_void_p()


def capture(stream: int, work: Callable[[], None]) -> CudaGraph:
    """Record what `work` enqueues on `stream`, without running it; the context must be current.

    Raises:
        CaptureError: `work` failed or did something that cannot be captured.
    """
    driver = load_driver()
    handle, graph, executable = ctypes.c_void_p(stream), ctypes.c_void_p(), ctypes.c_void_p()
    _check(driver.cuStreamBeginCapture_v2(handle, ctypes.c_int(_THREAD_LOCAL)), "cuStreamBeginCapture")
    failure: Exception | None = None
    try:
        work()
    except Exception as error:  # the capture must be ended whatever happened in it
        failure = error
    status = driver.cuStreamEndCapture(handle, ctypes.byref(graph))
    try:
        if failure is not None:
            raise CaptureError(str(failure)) from failure
        _check(status, "cuStreamEndCapture")
        flags = ctypes.c_ulonglong(0)
        _check(driver.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, flags), "cuGraphInstantiate")
    finally:
        if graph:
            driver.cuGraphDestroy(graph)
    return CudaGraph(executable)


@cache
def load_driver(library: str = "libcuda.so.1") -> Any:
    """The driver library; only called where a device was opened, so it is there."""
    return ctypes.CDLL(library)


def _check(status: int, call: str) -> None:
    if status != 0:
        text = ctypes.c_char_p()
        load_driver().cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
        raise CaptureError(f"{call}: {(text.value or b'error %d' % status).decode(errors='replace')}")
