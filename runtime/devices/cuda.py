"""The NVIDIA GPU as a device, on the primary context that TensorRT and ONNX Runtime use as well.

A context belongs to the thread that pushed it. Every call here pushes it and pops it again; nothing is ever left
current.

Copies, events and graphs were run on an H200 (`benchmarks/gpu.py`); the tests run over a simulated driver.
Source: CUDA C++ Programming Guide, "Asynchronous concurrent execution".
"""

from __future__ import annotations

import ctypes
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass

import numpy as np

from bsst.errors import BsstError, MissingDependencyError, ModelError, OutOfMemoryError, UsageError
from bsst.runtime.devices.base import Array, DeviceTensor, Event
from bsst.runtime.devices.cuda_api import CudaError, open_api
from bsst.runtime.devices.cuda_driver import find_gpus
from bsst.runtime.devices.cuda_timing import EventPool, OperationTimes
from bsst.runtime.trace import Trace

__all__ = ["CudaBuffer", "CudaDevice", "CudaEvent", "CudaStream"]

_LOG = logging.getLogger("bsst.runtime")


class CudaDevice:
    """One GPU.

    Args:
        index: CUDA device index among the visible ones.
        trace: records what each stream does when; spans are added while threads wait for events, and by `close`.

    Raises:
        MissingDependencyError: neither cuda-bindings nor pycuda is installed.
        ModelError: there is no driver or no such GPU.
    """

    on_gpu = True

    def __init__(self, index: int = 0, *, trace: Trace | None = None) -> None:
        try:
            self.api = open_api()
            count = self.api.device_count()
            if index >= count:
                raise ModelError(
                    f"expected GPU {index}, got {count} GPUs; check nvidia-smi and CUDA_VISIBLE_DEVICES, or run a plan "
                    "of target cpu"
                )
            self.name, self.compute_capability = self.api.open(index)
        except MissingDependencyError as error:
            if find_gpus():
                raise
            raise ModelError(
                "expected an NVIDIA GPU and its driver, found none; check nvidia-smi, or run a plan of target cpu"
            ) from error
        except CudaError as error:
            expected = "a working NVIDIA driver, got" if find_gpus() else "an NVIDIA GPU and its driver, found none:"
            raise ModelError(f"expected {expected} {error}; check nvidia-smi, or run a plan of target cpu") from error
        self.index = index
        self._closed = self._failed = False
        self._lock = threading.Lock()
        self._streams: list[CudaStream] = []
        self._buffers: list[CudaBuffer] = []
        self._host: list[int] = []
        self.events = EventPool(self.api, timed=False)
        self.times: OperationTimes | None = None
        if trace is not None:
            try:
                with self.current():
                    self.times = OperationTimes(self.api, trace)
            except BaseException:
                self.close()
                raise

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current on the calling thread, for libraries too; the driver's errors leave as ours.

        Raises:
            OutOfMemoryError: the GPU has no memory left.
            ModelError: the driver reports anything else, also a failure of earlier asynchronous work.
        """
        if self._closed:
            raise BsstError(f"expected an open device, got {self.name} after close; this is a bug, please report it")
        try:
            self.api.push()
            try:
                yield
            finally:
                self.api.pop()
        except CudaError as error:
            if error.out_of_memory:
                raise OutOfMemoryError(
                    f"expected enough memory on {self.name}, got {error}; use smaller tiles or shorter windows"
                ) from error
            raise ModelError(
                f"expected {self.name} to carry on, got {error}; run bsst doctor --selftest and report what it writes"
            ) from error

    def stream(self, name: str) -> CudaStream:
        """A new stream; see `Device.stream`."""
        with self.current():
            stream = CudaStream(self, name, self.api.make_stream())
        with self._lock:
            self._streams.append(stream)
        return stream

    def allocate(self, nbytes: int) -> CudaBuffer:
        """Memory with undefined contents; see `Device.allocate`."""
        with self.current():
            try:
                address = self.api.allocate(nbytes)
            except CudaError as error:
                if not error.out_of_memory:
                    raise
                free, total = self.api.memory()
                raise OutOfMemoryError(
                    f"expected {nbytes} bytes ({nbytes / 2**20:.0f} MiB) on {self.name}, got {free} free of {total}; "
                    "close other programs, or use a plan with smaller tiles or shorter windows"
                ) from error
        buffer = CudaBuffer(address=address, nbytes=nbytes)
        with self._lock:
            self._buffers.append(buffer)
        return buffer

    def host_array(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Page-locked array with undefined contents, valid until `close`; see `Device.host_array`."""
        with self.current():
            element = np.dtype(dtype)
            nbytes = math.prod(shape) * element.itemsize
            address = self.api.allocate_host(max(nbytes, 1))
        with self._lock:
            self._host.append(address)
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
        return memory.view(element).reshape(shape)

    def shared_array(self, tensor: DeviceTensor) -> None:
        """None; see `Device.shared_array`."""

    def memory(self) -> tuple[int, int]:
        """Bytes (free, total), of all processes."""
        with self.current():
            return self.api.memory()

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
        self._closed = True
        self.api.push()
        # A context that failed reports its failure at every call, and frees all the same.
        try:
            for buffer in self._buffers:
                with suppress(CudaError):
                    self.api.free(buffer.address)
            for address in self._host:
                with suppress(CudaError):
                    self.api.free_host(address)
            for stream in self._streams:
                with suppress(CudaError):
                    self.api.destroy_stream(stream.handle)
            self.events.clear()
            if self.times is not None:
                self.times.clear()
            self._streams, self._buffers, self._host = [], [], []
        finally:
            with suppress(CudaError):
                self.api.release()

    def __enter__(self) -> CudaDevice:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(frozen=True, kw_only=True)
class CudaBuffer:
    """Device memory; see `Buffer`."""

    address: int
    nbytes: int


class CudaEvent:
    """A recorded event; see `Event`."""

    def __init__(self, device: CudaDevice, event: int) -> None:
        self._device = device
        self.event = event

    def synchronize(self) -> None:
        """Block without spinning and without the GIL until the event has passed."""
        with self._device.current():
            self._device.api.synchronize(self.event)
            if self._device.times is not None:
                self._device.times.collect()

    def __del__(self) -> None:
        self._device.events.give_back(self.event)


class CudaStream:
    """A CUDA stream; see `Stream`. Calls from several threads take turns."""

    def __init__(self, device: CudaDevice, name: str, handle: int) -> None:
        self.device = device
        self.name = name
        self.handle = handle
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
            self.device.api.upload(target.address, source.ctypes.data, source.nbytes, self.handle)

    def download(self, source: DeviceTensor, target: Array) -> None:
        """Copy to a page-locked array."""
        _check_copy(target, source)
        with self._lock, self.device.current(), self._timed("download"):
            self.device.api.download(target.ctypes.data, source.address, target.nbytes, self.handle)

    def record(self) -> CudaEvent:
        """Event at the present end of the queue."""
        with self._lock, self.device.current():
            event = self.device.events.take()
            self.device.api.record(event, self.handle)
        return CudaEvent(self.device, event)

    def wait(self, event: Event) -> None:
        """Start later operations after the event."""
        if not isinstance(event, CudaEvent):
            raise UsageError(f"expected an event of a CUDA stream, got {type(event).__name__}; use one device")
        with self._lock, self.device.current():
            self.device.api.wait(self.handle, event.event)

    def synchronize(self) -> None:
        """Wait for the end of the queue; through an event, because waiting for a stream spins."""
        self.record().synchronize()

    def _timed(self, name: str) -> AbstractContextManager[None]:
        times = self.device.times
        return nullcontext() if times is None else times.around(self.name, name, self.handle)


def _check_copy(host: Array, tensor: DeviceTensor) -> None:
    if (host.dtype.name, host.shape) != (tensor.dtype, tensor.shape) or not host.flags.c_contiguous:
        raise UsageError(
            f"expected a contiguous host array {tensor.dtype} {tensor.shape}, got {host.dtype.name} {host.shape}; "
            "make it with Device.host_array"
        )
