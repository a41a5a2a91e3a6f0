"""The part of `pycuda.driver` that bsst uses, over the simulated GPU; any other name or argument fails.

Refused as in the documentation: every call without a current context on the calling thread; asynchronous copies of
memory that is not page-locked; wrong sizes; destroyed streams; freed memory. Objects that are dropped where their
context is not current, on another thread than the one that retained it, leak silently in pycuda; here they are counted.

Sources: https://documen.tician.de/pycuda/driver.html (Device.retain_primary_context, Context, Stream, Event, mem_alloc,
pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async; `Event.time_since`: "will fail [...] if either of the events has
not been reached yet"); cuda.hpp of pycuda 2026.1 (Context); https://wiki.tiker.net/PyCuda/FrequentlyAskedQuestions;
CUDA Driver API, "Event Management" (cuEventElapsedTime: CUDA_ERROR_NOT_READY before both have passed,
CUDA_ERROR_INVALID_HANDLE for events that were never recorded or made with CU_EVENT_DISABLE_TIMING) and "Primary Context
Management" (cuDevicePrimaryCtxRelease pops nothing).
"""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import simulated
from .simulated import GPU, OUT_OF_MEMORY, Access, CudaFailure

_builtin_memory_error = MemoryError
event_flags = SimpleNamespace(DEFAULT=0, BLOCKING_SYNC=1, DISABLE_TIMING=2, INTERPROCESS=4)


class Error(Exception):
    pass


class MemoryError(Error):  # noqa: A001
    pass


class LogicError(Error):
    pass


class RuntimeError(Error):  # noqa: A001
    pass


def _call(name: str, work: Any) -> Any:
    try:
        GPU.require_context(name)
        return work()
    except CudaFailure as error:
        if error.code == OUT_OF_MEMORY:
            raise MemoryError(str(error)) from None
        # As `translate_cuda_error` of pycuda; an illegal address is none of its LaunchErrors.
        raise (RuntimeError if error.code == simulated.NOT_READY else LogicError)(str(error)) from None


def init(flags: int = 0) -> None:
    if GPU.devices == 0:
        raise RuntimeError("cuInit failed: no CUDA-capable device is detected")


def mem_get_info() -> tuple[int, int]:
    return _call("cuMemGetInfo", lambda: (GPU.free_bytes(), GPU.total))


class Device:
    def __init__(self, number: int) -> None:
        if not 0 <= number < GPU.devices:
            raise LogicError("cuDeviceGet failed: invalid device ordinal")

    @staticmethod
    def count() -> int:
        return GPU.devices

    def name(self) -> str:
        return "Simulated GPU"

    def compute_capability(self) -> tuple[int, int]:
        return (8, 9)

    def retain_primary_context(self) -> Context:
        GPU.retained += 1
        return Context()


class Context:
    """Created by `Device.retain_primary_context`, which does not make it current."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._valid = True

    def push(self) -> None:
        if not self._valid:
            raise LogicError("cuCtxPushCurrent failed: context is destroyed")
        _leave()
        GPU.driver_stack().append(self)
        GPU.stack().append(self)

    @staticmethod
    def pop() -> None:
        if not GPU.stack():
            raise LogicError("context::pop failed: invalid device context - cannot pop non-current context")
        _leave()
        GPU.stack().pop()
        if GPU.stack():
            GPU.driver_stack().append(GPU.stack()[-1])

    def detach(self) -> None:
        if not self._valid:
            raise LogicError("context::detach failed: invalid device context - cannot detach from invalid context")
        stack = GPU.stack()
        active = bool(stack) and stack[-1] is self
        if active or self._thread == threading.get_ident():
            if not active:
                GPU.driver_stack().append(self)
            GPU.retained -= 1  # cuDevicePrimaryCtxRelease pops nothing
        else:
            GPU.leaks.append("a context detached where it is neither current nor retained")
        self._valid = False
        while stack and not stack[-1]._valid:  # type: ignore[attr-defined]
            stack.pop()
        if active and stack:
            GPU.driver_stack().append(stack[-1])


def _leave() -> None:
    """`context::prepare_context_switch`: of the contexts that pycuda knows, only the top one is the driver's."""
    if GPU.stack() and not GPU.driver_stack():
        raise LogicError("cuCtxPopCurrent failed: invalid device context")
    if GPU.stack():
        GPU.driver_stack().pop()


class _Owned:
    """Something that is freed with its context current, or on the thread that retained it."""

    _kind = ""

    def __init__(self) -> None:
        self._context: Any = GPU.stack()[-1]
        GPU.live[self._kind] += 1

    def _gone(self) -> bool:
        if "_context" not in self.__dict__:  # it was never made
            return False
        GPU.live[self._kind] -= 1
        current = bool(GPU.stack()) and GPU.stack()[-1] is self._context
        if not self._context._valid or current or self._context._thread == threading.get_ident():
            return True
        GPU.leaks.append(f"{self._kind} dropped without its context")
        return False


class Stream(_Owned):
    _kind = "stream"

    def __init__(self, flags: int = 0) -> None:
        def work() -> None:
            _Owned.__init__(self)
            if flags not in (0, 1):
                raise CudaFailure("cuStreamCreate", simulated.INVALID_VALUE)
            self._state = simulated.StreamState(GPU.handle())
            GPU.streams[self._state.handle] = self._state

        self._gpu = GPU.streams
        _call("cuStreamCreate", work)

    @property
    def handle(self) -> int:
        return self._state.handle

    def synchronize(self) -> None:
        _call("cuStreamSynchronize", lambda: GPU.synchronize(GPU.record(self.handle), "cuStreamSynchronize"))

    def wait_for_event(self, event: Event) -> None:
        _call("cuStreamWaitEvent", lambda: GPU.wait(self.handle, event._point))

    def __del__(self) -> None:
        if self._gpu is GPU.streams and self._gone():
            self._state.destroyed = True


class Event(_Owned):
    _kind = "event"

    def __init__(self, flags: int = 0) -> None:
        def work() -> None:
            if flags & ~7 or (flags & event_flags.INTERPROCESS and not flags & event_flags.DISABLE_TIMING):
                raise CudaFailure("cuEventCreate", simulated.INVALID_VALUE)
            _Owned.__init__(self)

        self._gpu = GPU.streams
        self._timed = not flags & event_flags.DISABLE_TIMING
        self._point: simulated.Point | None = None
        _call("cuEventCreate", work)

    def record(self, stream: Stream | None = None) -> Event:
        def work() -> None:
            if stream is None:
                raise simulated.Misuse("an event in the default stream orders nothing of ours")
            self._point = GPU.record(stream.handle)

        _call("cuEventRecord", work)
        return self

    def synchronize(self) -> Event:
        _call("cuEventSynchronize", lambda: GPU.synchronize(self._point, "cuEventSynchronize"))
        return self

    def query(self) -> bool:
        return _call("cuEventQuery", lambda: GPU.query(self._point))

    def time_since(self, start: Event) -> float:
        """Milliseconds in single precision; both events must have been reached, and record times."""

        def work() -> float:
            if not (self._timed and start._timed):
                raise CudaFailure("cuEventElapsedTime", simulated.INVALID_HANDLE)
            return GPU.elapsed(start._point, self._point)

        return _call("cuEventElapsedTime", work)

    def __del__(self) -> None:
        if self._gpu is GPU.streams:
            self._gone()


class DeviceAllocation(_Owned):
    _kind = "memory"

    def __init__(self, nbytes: int) -> None:
        self._gpu = GPU.streams
        self._freed = False
        self._address = GPU.allocate(nbytes)
        _Owned.__init__(self)

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        if self._freed:
            raise LogicError("DeviceAllocation::free failed: invalid resource handle")
        self._freed = True
        if self._gone():
            GPU.release(self._address)

    def __del__(self) -> None:
        if self._gpu is GPU.streams and not self.__dict__.get("_freed", True):
            self.free()


def mem_alloc(nbytes: int) -> DeviceAllocation:
    return _call("cuMemAlloc", lambda: DeviceAllocation(nbytes))


class PagelockedHostAllocation(_Owned):
    _kind = "pinned"

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        GPU.refuse_while_capturing("cuMemHostAlloc")
        self._gpu = GPU.streams
        self._freed = False
        self._memory = np.empty(shape, dtype)
        self._memory.view(np.uint8)[...] = 0xFF
        GPU.pinned[self._memory.ctypes.data] = self._memory.nbytes
        _Owned.__init__(self)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._memory.__array_interface__

    def free(self) -> None:
        if not self._freed:
            self._freed = True
            self._gone()
            del GPU.pinned[self._memory.ctypes.data]

    def __del__(self) -> None:
        if self._gpu is GPU.streams and not self.__dict__.get("_freed", True):
            self.free()


def pagelocked_empty(shape: tuple[int, ...], dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
    return _call("cuMemHostAlloc", lambda: np.asarray(PagelockedHostAllocation(shape, np.dtype(dtype))))


def memcpy_htod_async(dest: int, src: np.ndarray, stream: Stream | None = None) -> None:
    def work() -> None:
        _check_host(src)
        access = Access(int(dest), src.nbytes, writes=True)

        def copy() -> None:
            GPU.check_pinned(src)
            GPU.bytes_at(access.address, access.nbytes)[...] = np.ascontiguousarray(src).reshape(-1).view(np.uint8)

        GPU.enqueue(_handle(stream), copy, [access], "cuMemcpyHtoDAsync")

    _call("cuMemcpyHtoDAsync", work)


def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Stream | None = None) -> None:
    def work() -> None:
        _check_host(dest)
        if not dest.flags.writeable:
            raise BufferError("buffer source array is read-only")
        access = Access(int(src), dest.nbytes, writes=False)

        def copy() -> None:
            GPU.check_pinned(dest)
            dest.reshape(-1).view(np.uint8)[...] = GPU.bytes_at(access.address, access.nbytes)

        GPU.enqueue(_handle(stream), copy, [access], "cuMemcpyDtoHAsync")

    _call("cuMemcpyDtoHAsync", work)


def _check_host(array: np.ndarray) -> None:
    if not array.flags.c_contiguous:
        raise ValueError("ndarray is not contiguous")
    GPU.check_pinned(array)


def _handle(stream: Stream | None) -> int:
    if stream is None:
        raise simulated.Misuse("a copy in the default stream is in no order with ours")
    if not isinstance(stream, Stream):
        raise TypeError(f"expected pycuda._driver.Stream, got {type(stream).__name__}")
    return stream.handle
