"""The calls of `libcuda.c`, answered by the simulated GPU with result codes of the driver.

Source: CUDA Driver API, one section per group of functions below.
"""
# ruff: noqa: N802

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np

from . import simulated
from .simulated import CAPTURE_INVALIDATED, GPU, INVALID_HANDLE, INVALID_VALUE, NAMES, Access, CudaFailure, Misuse

UNKNOWN = 999
CONTEXT = 0xC0
"""Handle of the primary context."""
ATTRIBUTES = {75: 8, 76: 9}
"""Compute capability."""
WITHOUT_CONTEXT = ("cuInit", "cuDriver", "cuDevice", "cuCtx", "cuGetError")
_texts = {
    code: ctypes.create_string_buffer(name.encode()) for code, name in {**NAMES, UNKNOWN: "unknown error"}.items()
}


def answer(call: bytes, words: Any) -> int:
    """Result code of one call; what a GPU would not report is kept in `GPU.misuses`."""
    name = call.decode()
    function = globals()[f"_{name}"]
    try:
        if name.startswith(WITHOUT_CONTEXT):
            function(*words[: function.__code__.co_argcount])
            return 0
        # What is freed is gone although a broken context reports its failure again.
        if name.endswith(("Destroy", "Free", "FreeHost")):
            function(*words[: function.__code__.co_argcount])
            GPU.require_context(name)
            return 0
        GPU.require_context(name)
        function(*words[: function.__code__.co_argcount])
        return 0
    except CudaFailure as error:
        return error.code
    except Exception as error:
        GPU.misuses.append(f"{type(error).__name__}: {error}")
        return UNKNOWN


def _store(address: int, value: Any, kind: Any = ctypes.c_void_p) -> None:
    kind.from_address(address).value = value


# initialisation, devices, errors


def _cuInit(flags: int) -> None:
    if GPU.devices == 0:
        raise CudaFailure("cuInit", simulated.NO_DEVICE)


def _cuDriverGetVersion(version: int) -> None:
    _store(version, 13000, ctypes.c_int)


def _cuDeviceGetCount(count: int) -> None:
    _store(count, GPU.devices, ctypes.c_int)


def _cuDeviceGet(device: int, ordinal: int) -> None:
    if ordinal >= GPU.devices:
        raise CudaFailure("cuDeviceGet", simulated.INVALID_DEVICE)
    _store(device, ordinal, ctypes.c_int)


def _cuDeviceGetName(name: int, length: int, device: int) -> None:
    ctypes.memmove(name, b"Simulated GPU\0"[:length], min(14, length))


def _cuDeviceGetAttribute(value: int, attribute: int, device: int) -> None:
    _store(value, ATTRIBUTES.get(attribute, 0), ctypes.c_int)


def _cuDeviceComputeCapability(major: int, minor: int, device: int) -> None:
    _store(major, ATTRIBUTES[75], ctypes.c_int)
    _store(minor, ATTRIBUTES[76], ctypes.c_int)


def _cuDeviceTotalMem(nbytes: int, device: int) -> None:
    _store(nbytes, GPU.total, ctypes.c_size_t)


def _cuGetErrorString(error: int, text: int) -> None:
    if error not in _texts:
        _store(text, None)
        raise CudaFailure("cuGetErrorString", INVALID_VALUE)
    _store(text, ctypes.addressof(_texts[error]))


_cuGetErrorName = _cuGetErrorString


# contexts


def _cuDevicePrimaryCtxRetain(context: int, device: int) -> None:
    GPU.retained += 1
    _store(context, CONTEXT)


def _cuDevicePrimaryCtxRelease(device: int) -> None:
    if not GPU.retained:
        raise CudaFailure("cuDevicePrimaryCtxRelease", simulated.INVALID_CONTEXT)
    GPU.retained -= 1


def _cuCtxPushCurrent(context: int) -> None:
    if context != CONTEXT or not GPU.retained:
        raise CudaFailure("cuCtxPushCurrent", simulated.INVALID_CONTEXT)
    GPU.driver_stack().append(context)


def _cuCtxPopCurrent(context: int) -> None:
    if not GPU.driver_stack():
        raise CudaFailure("cuCtxPopCurrent", simulated.INVALID_CONTEXT)
    popped = GPU.driver_stack().pop()
    if context:
        _store(context, popped)


def _cuCtxGetDevice(device: int) -> None:
    if not GPU.driver_stack():
        raise CudaFailure("cuCtxGetDevice", simulated.INVALID_CONTEXT)
    _store(device, 0, ctypes.c_int)


# memory


def _cuMemGetInfo(free: int, total: int) -> None:
    _store(free, GPU.free_bytes(), ctypes.c_size_t)
    _store(total, GPU.total, ctypes.c_size_t)


def _cuMemAlloc(address: int, nbytes: int) -> None:
    _store(address, GPU.allocate(nbytes), ctypes.c_ulonglong)
    GPU.live["memory"] += 1


def _cuMemFree(address: int) -> None:
    GPU.release(address)
    GPU.live["memory"] -= 1


def _cuMemHostAlloc(address: int, nbytes: int, flags: int) -> None:
    GPU.refuse_while_capturing("cuMemHostAlloc")
    if nbytes == 0 or flags & ~7:
        raise CudaFailure("cuMemHostAlloc", INVALID_VALUE)
    memory = np.full(nbytes, 0xFF, np.uint8)
    GPU.pinned[memory.ctypes.data] = memory
    GPU.live["pinned"] += 1
    _store(address, memory.ctypes.data)


def _cuMemFreeHost(address: int) -> None:
    if address not in GPU.pinned:
        raise Misuse(f"page-locked memory at {address:#x} is freed twice")
    del GPU.pinned[address]
    GPU.live["pinned"] -= 1


def _cuMemcpyHtoDAsync(to: int, host: int, nbytes: int, stream: int) -> None:
    _copy(to, host, nbytes, stream, writes=True)


def _cuMemcpyDtoHAsync(host: int, at: int, nbytes: int, stream: int) -> None:
    _copy(at, host, nbytes, stream, writes=False)


def _copy(address: int, host: int, nbytes: int, stream: int, *, writes: bool) -> None:
    GPU.check_pinned(host, nbytes)

    def copy() -> None:
        GPU.check_pinned(host, nbytes)
        array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(host))
        memory = GPU.bytes_at(address, nbytes)
        memory[...], array[...] = (array, array) if writes else (memory, memory)

    call = "cuMemcpyHtoDAsync" if writes else "cuMemcpyDtoHAsync"
    GPU.enqueue(stream, copy, [Access(address, nbytes, writes=writes)], call)


# streams and events


def _cuStreamCreate(stream: int, flags: int) -> None:
    if flags not in (0, 1):
        raise CudaFailure("cuStreamCreate", INVALID_VALUE)
    state = simulated.StreamState(GPU.handle())
    GPU.streams[state.handle] = state
    GPU.live["stream"] += 1
    _store(stream, state.handle)


def _cuStreamDestroy(stream: int) -> None:
    GPU.stream_of(stream, "cuStreamDestroy").destroyed = True
    GPU.live["stream"] -= 1


def _cuStreamSynchronize(stream: int) -> None:
    GPU.synchronize(GPU.record(stream), "cuStreamSynchronize")


def _cuStreamWaitEvent(stream: int, event: int, flags: int) -> None:
    GPU.wait(stream, _event(event, "cuStreamWaitEvent").point)


def _cuEventCreate(event: int, flags: int) -> None:
    if flags & ~7 or (flags & 4 and not flags & 2):
        raise CudaFailure("cuEventCreate", INVALID_VALUE)
    handle = GPU.handle()
    GPU.events[handle] = simulated.EventState(timed=not flags & 2)
    GPU.live["event"] += 1
    _store(event, handle)


def _cuEventDestroy(event: int) -> None:
    _event(event, "cuEventDestroy")
    del GPU.events[event]
    GPU.live["event"] -= 1


def _cuEventRecord(event: int, stream: int) -> None:
    _event(event, "cuEventRecord").point = GPU.record(stream)


def _cuEventQuery(event: int) -> None:
    if not GPU.query(_event(event, "cuEventQuery").point):
        raise CudaFailure("cuEventQuery", simulated.NOT_READY)


def _cuEventSynchronize(event: int) -> None:
    GPU.synchronize(_event(event, "cuEventSynchronize").point, "cuEventSynchronize")


def _cuEventElapsedTime(milliseconds: int, start: int, end: int) -> None:
    first, last = (_event(event, "cuEventElapsedTime") for event in (start, end))
    if not (first.timed and last.timed):
        raise CudaFailure("cuEventElapsedTime", INVALID_HANDLE)
    _store(milliseconds, GPU.elapsed(first.point, last.point), ctypes.c_float)


def _event(handle: int, call: str) -> simulated.EventState:
    if handle not in GPU.events:
        raise CudaFailure(call, INVALID_HANDLE)
    return GPU.events[handle]


# graphs


def _cuStreamBeginCapture(stream: int, mode: int) -> None:
    state = GPU.stream_of(stream, "cuStreamBeginCapture")
    if mode not in (0, 1, 2) or state.capture is not None:
        raise CudaFailure("cuStreamBeginCapture", INVALID_VALUE)
    state.capture, state.capturing_thread, state.invalidated = [], threading.get_ident(), 0


def _cuStreamEndCapture(stream: int, graph: int) -> None:
    state = GPU.stream_of(stream, "cuStreamEndCapture")
    if state.capture is None or state.capturing_thread != threading.get_ident():
        raise CudaFailure("cuStreamEndCapture", INVALID_VALUE)
    operations, state.capture = state.capture, None
    if state.invalidated:
        _store(graph, None)
        raise CudaFailure("cuStreamEndCapture", CAPTURE_INVALIDATED)
    handle = GPU.handle()
    GPU.graphs[handle] = operations
    _store(graph, handle)


def _cuGraphInstantiateWithFlags(executable: int, graph: int, flags: int) -> None:
    if graph not in GPU.graphs or flags:
        raise CudaFailure("cuGraphInstantiate", INVALID_VALUE)
    handle = GPU.handle()
    GPU.executables[handle] = list(GPU.graphs[graph])
    _store(executable, handle)


def _cuGraphLaunch(executable: int, stream: int) -> None:
    if executable not in GPU.executables:
        raise CudaFailure("cuGraphLaunch", INVALID_HANDLE)
    for operation in GPU.executables[executable]:
        assert operation.work is not None
        GPU.enqueue(stream, operation.work, operation.accesses, "cuGraphLaunch")


def _cuGraphDestroy(graph: int) -> None:
    if graph:
        GPU.graphs.pop(graph)


def _cuGraphExecDestroy(executable: int) -> None:
    GPU.executables.pop(executable)
