"""The NVIDIA GPU as a device, over pycuda and the primary context that TensorRT and ONNX Runtime use as well.

A context belongs to the thread that pushed it, and pycuda aborts the process when a thread ends with one left on its
stack. So every call here pushes the context and pops it again; nothing is ever left current. pycuda lets go of an
object silently where its context is not current; `close` therefore frees everything under it.

Not run here: no GPU. Written against the documentation and tested with a strict fake (`tests/runtime/fakes/pycuda`).
Source: https://documen.tician.de/pycuda/driver.html; cuda.hpp of pycuda 2026.1 (`context`, `primary_context`); CUDA
Driver API, cuDevicePrimaryCtxRelease ("does not pop the context from stack in any circumstances"); CUDA C++ Programming
Guide, "Asynchronous concurrent execution".
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from bsst.errors import BsstError, MissingDependencyError, ModelError, OutOfMemoryError, UsageError
from bsst.runtime.devices import cuda_graph as graph_cuda
from bsst.runtime.devices.base import DeviceTensor, Event
from bsst.runtime.devices.cuda_driver import find_gpus
from bsst.runtime.devices.cuda_timing import EventPool, OperationTimes
from bsst.runtime.sessions.base import Array
from bsst.runtime.trace import Trace

__all__ = ["CudaBuffer", "CudaDevice", "CudaEvent", "CudaStream"]

_LOG = logging.getLogger("bsst.runtime")
_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: no implicit order with the default stream, on which libraries may do as they like."""


class CudaDevice:
    """One GPU.

    Args:
        index: CUDA device index among the visible ones.
        trace: records what each stream does when; spans are added while threads wait for events, and by `close`.

    Raises:
        MissingDependencyError: pycuda is not installed.
        ModelError: there is no driver or no such GPU.
    """

    on_gpu = True

    def __init__(self, index: int = 0, *, trace: Trace | None = None) -> None:
        self.cuda = _pycuda()
        try:
            self.cuda.init()
            count = self.cuda.Device.count()
            if index >= count:
                raise ModelError(
                    f"expected GPU {index}, got {count} GPUs; check nvidia-smi and CUDA_VISIBLE_DEVICES, or run a plan "
                    "of target cpu"
                )
            device = self.cuda.Device(index)
            self._context = device.retain_primary_context()
        except self.cuda.Error as error:
            raise ModelError(
                f"expected a working NVIDIA driver, got {error}; check nvidia-smi, or run a plan of target cpu"
            ) from error
        self.index = index
        self.name = str(device.name())
        self.compute_capability = ".".join(map(str, device.compute_capability()))
        self._closed = self._failed = False
        self._lock = threading.Lock()
        self._streams: list[CudaStream] = []
        self._buffers: list[CudaBuffer] = []
        self._host: list[Array] = []
        flags = self.cuda.event_flags
        self.events = EventPool(self.cuda, flags.BLOCKING_SYNC | flags.DISABLE_TIMING)
        self.times: OperationTimes | None = None
        if trace is not None:
            try:
                with self.current():
                    self.times = OperationTimes(self.cuda, trace, self.cuda.Stream(_NON_BLOCKING))
            except BaseException:
                self.close()
                raise

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current on the calling thread, for libraries too; pycuda's errors leave as ours.

        Raises:
            OutOfMemoryError: the GPU has no memory left.
            ModelError: the driver reports anything else, also a failure of earlier asynchronous work.
        """
        if self._closed:
            raise BsstError(f"expected an open device, got {self.name} after close; this is a bug, please report it")
        try:
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()
        except self.cuda.MemoryError as error:
            raise OutOfMemoryError(
                f"expected enough memory on {self.name}, got {error}; use smaller tiles or shorter windows"
            ) from error
        except self.cuda.Error as error:
            raise ModelError(
                f"expected {self.name} to carry on, got {error}; run bsst-doctor --selftest and report what it writes"
            ) from error

    def stream(self, name: str) -> CudaStream:
        """A new stream; see `Device.stream`."""
        with self.current():
            stream = CudaStream(self, name, self.cuda.Stream(_NON_BLOCKING))
        with self._lock:
            self._streams.append(stream)
        return stream

    def allocate(self, nbytes: int) -> CudaBuffer:
        """Memory with undefined contents; see `Device.allocate`."""
        with self.current():
            try:
                allocation = self.cuda.mem_alloc(nbytes)
            except self.cuda.MemoryError as error:
                free, total = self.cuda.mem_get_info()
                raise OutOfMemoryError(
                    f"expected {nbytes} bytes ({nbytes / 2**20:.0f} MiB) on {self.name}, got {free} free of {total}; "
                    "close other programs, or use a plan with smaller tiles or shorter windows"
                ) from error
        buffer = CudaBuffer(address=int(allocation), nbytes=nbytes, allocation=allocation)
        with self._lock:
            self._buffers.append(buffer)
        return buffer

    def host_array(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Page-locked array with undefined contents, valid until `close`; see `Device.host_array`."""
        with self.current():
            array: Array = self.cuda.pagelocked_empty(shape, np.dtype(dtype))
        with self._lock:
            self._host.append(array)
        return array

    def memory(self) -> tuple[int, int]:
        """Bytes (free, total), of all processes."""
        with self.current():
            free, total = self.cuda.mem_get_info()
        return int(free), int(total)

    def abort(self) -> None:
        """Wait for what was submitted, which CUDA cannot take back; the first failure is logged.

        What fails on the GPU itself breaks the context for good: only a new process can use the GPU again.
        """
        for stream in self._streams:
            try:
                stream.synchronize()
            except BsstError as error:
                if not self._failed:  # a failed context fails every call from then on
                    _LOG.warning("stream %s: %s", stream.name, str(error))
                self._failed = True

    def close(self) -> None:
        """Wait for every stream, then free everything; arrays of `host_array` must not be touched any more."""
        with self._lock:
            if self._closed:
                return
        self.abort()
        self._context.push()
        self._closed = True
        try:
            for buffer in self._buffers:
                buffer.allocation.free()
            for array in self._host:
                array.base.free()  # type: ignore[union-attr]  # once the context is gone, pycuda cannot
            for stream in self._streams:
                stream.release()
            self.events.clear()
            if self.times is not None:
                self.times.clear()
            self._streams, self._buffers, self._host = [], [], []
        finally:
            # To release a primary context does not pop it, and pycuda takes it off its own stack alone: it would stay
            # current on this thread, destroyed, for whatever library comes next.
            graph_cuda.load_driver().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
            self._context.detach()  # releases it here because pycuda holds it for current

    def __enter__(self) -> CudaDevice:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(frozen=True, kw_only=True)
class CudaBuffer:
    """Device memory; see `Buffer`."""

    address: int
    nbytes: int
    allocation: Any
    """Owner of the memory in pycuda."""


class CudaEvent:
    """A recorded event; see `Event`."""

    def __init__(self, device: CudaDevice, event: list[Any]) -> None:
        self._device = device
        self.event = event

    def synchronize(self) -> None:
        """Block without spinning and without the GIL until the event has passed."""
        with self._device.current():
            self.event[0].synchronize()
            if self._device.times is not None:
                self._device.times.collect()

    def __del__(self) -> None:
        self._device.events.give_back(self.event)


class CudaStream:
    """A CUDA stream; see `Stream`. Calls from several threads take turns."""

    def __init__(self, device: CudaDevice, name: str, stream: Any) -> None:
        self.device = device
        self.name = name
        self.handle = int(stream.handle)
        self._stream = stream
        self._lock = threading.RLock()

    def submit(
        self, name: str, work: Callable[[], None], *, reads: Sequence[DeviceTensor], writes: Sequence[DeviceTensor]
    ) -> None:
        """Call `work` now, to issue its asynchronous calls; its exceptions leave here."""
        with self._lock, self.device.current(), self._timed(name):
            work()

    def upload(self, source: Array, target: DeviceTensor) -> None:
        """Copy a page-locked array to the device."""
        _check_copy(source, target)
        with self._lock, self.device.current(), self._timed("upload"):
            self.device.cuda.memcpy_htod_async(target.address, source, self._stream)

    def download(self, source: DeviceTensor, target: Array) -> None:
        """Copy to a page-locked array."""
        _check_copy(target, source)
        with self._lock, self.device.current(), self._timed("download"):
            self.device.cuda.memcpy_dtoh_async(target, source.address, self._stream)

    def record(self) -> CudaEvent:
        """Event at the present end of the queue."""
        with self._lock, self.device.current():
            event = self.device.events.take()
            event[0].record(self._stream)
        return CudaEvent(self.device, event)

    def wait(self, event: Event) -> None:
        """Start later operations after the event."""
        if not isinstance(event, CudaEvent):
            raise UsageError(f"expected an event of a CUDA stream, got {type(event).__name__}; use one device")
        with self._lock, self.device.current():
            self._stream.wait_for_event(event.event[0])

    def synchronize(self) -> None:
        """Wait for the end of the queue; through an event, because waiting for a stream spins."""
        self.record().synchronize()

    def release(self) -> None:
        """Let go of the stream of pycuda; the context must be current."""
        self._stream = None

    def _timed(self, name: str) -> AbstractContextManager[None]:
        times = self.device.times
        return nullcontext() if times is None else times.around(self.name, name, self._stream)


def _check_copy(host: Array, tensor: DeviceTensor) -> None:
    if (host.dtype.name, host.shape) != (tensor.dtype, tensor.shape) or not host.flags.c_contiguous:
        raise UsageError(
            f"expected a contiguous host array {tensor.dtype} {tensor.shape}, got {host.dtype.name} {host.shape}; "
            "make it with Device.host_array"
        )


def _pycuda() -> Any:
    try:
        return importlib.import_module("pycuda.driver")
    except ImportError as error:
        if not find_gpus():
            raise ModelError(
                "expected an NVIDIA GPU and its driver, found none; check nvidia-smi, or run a plan of target cpu"
            ) from error
        if not isinstance(error, ModuleNotFoundError):
            raise ModelError(
                f"expected pycuda to fit the driver, got {error}; "
                "run: pip install --no-cache-dir --force-reinstall pycuda"
            ) from error
        raise MissingDependencyError("pycuda", "gpu", "running on an NVIDIA GPU") from error
