"""The host as a device: numpy memory, a thread per stream, and stages that run on arrays.

Operations of different streams really run at the same time, because numpy and ONNX Runtime release the interpreter
lock. Where each uses several cores, more of them than fill the machine gain nothing and need memory for each other: the
device lets no more than that many run at once.
"""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from bsst.errors import BsstError, ModelError, OutOfMemoryError
from bsst.runtime.devices.base import Array, DeviceTensor, Event, Stream
from bsst.runtime.trace import Trace, span

__all__ = ["HostBuffer", "HostDevice", "HostSession", "HostStream", "host_view"]

ALIGNMENT = 256


class HostBuffer:
    """Memory of the process, see `Buffer`."""

    def __init__(self, nbytes: int) -> None:
        try:
            memory = np.empty(nbytes + ALIGNMENT, np.uint8)
        except MemoryError as error:
            raise OutOfMemoryError(
                f"expected {nbytes} free bytes, got fewer; use a plan with a smaller --tile or a shorter --window"
            ) from error
        start = -memory.ctypes.data % ALIGNMENT
        self.array = memory[start : start + nbytes]

    @property
    def address(self) -> int:
        """First byte."""
        return self.array.ctypes.data

    @property
    def nbytes(self) -> int:
        """Size."""
        return self.array.nbytes


def host_view(tensor: DeviceTensor) -> Array:
    """A tensor of this device as an array, not copied.

    Raises:
        BsstError: the tensor lies on another device, outside its buffer, or has no numpy type.
    """
    buffer, end = tensor.buffer, tensor.offset + tensor.nbytes
    if not isinstance(buffer, HostBuffer) or tensor.dtype == "bfloat16" or end > buffer.nbytes:
        raise BsstError(
            f"expected a tensor inside a host buffer with a numpy type, got {tensor.dtype} up to byte {end} of "
            f"{type(buffer).__name__}({buffer.nbytes}); run the plan on the device that it was made for"
        )
    return buffer.array[tensor.offset : end].view(tensor.dtype).reshape(tensor.shape)


class HostEvent:
    """A point in a stream, see `Event`."""

    def __init__(self) -> None:
        self._passed = threading.Event()
        self._error: BaseException | None = None

    def synchronize(self) -> None:
        """Wait; see `Event.synchronize`."""
        self._passed.wait()
        if self._error is not None:
            raise self._error

    def pass_with(self, error: BaseException | None) -> None:
        """The stream is here, or failed before."""
        self._error = error
        self._passed.set()


@dataclass(frozen=True)
class _Operation:
    name: str | None
    """None for waits, which are no work of the stream."""
    work: Callable[[], None]
    event: HostEvent | None = None
    """To pass even if the stream has failed; then there is no work."""


class _Worker:
    """A queue and its thread. It does not know the device, so that a forgotten device can end it."""

    def __init__(self, name: str, turns: threading.Semaphore | nullcontext[None], trace: Trace | None) -> None:
        self._name, self._turns, self._trace = name, turns, trace
        self._changed = threading.Condition()
        self._queue: deque[_Operation] = deque()
        self._busy = self._closed = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def put(self, operation: _Operation) -> None:
        with self._changed:
            if self._closed:
                raise BsstError(f"stream {self._name}: expected an open device, got a closed one; open another")
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=f"bsst {self._name}", daemon=True)
                thread.start()  # fails where memory is short; `close` joins only what runs
                self._thread = thread
            self._queue.append(operation)
            self._changed.notify_all()

    def drop(self) -> None:
        """Forget what has not started."""
        with self._changed:
            dropped, self._queue = self._queue, deque()
        for operation in dropped:
            if operation.event is not None:
                operation.event.pass_with(BsstError(f"stream {self._name}: cancelled before it got here"))

    def settle(self) -> None:
        """Wait for the operation that runs and forget failures."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            self._error = None

    def close(self) -> None:
        """Finish the queue and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread not in (None, threading.current_thread()):
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return
                operation = self._queue.popleft()
                self._busy = True
            if operation.event is not None:
                operation.event.pass_with(self._error)
            elif self._error is None:
                try:
                    self._do(operation)
                except BaseException as error:  # whatever it is, it belongs to the thread that synchronises
                    self._error = error
            del operation  # it may hold the last reference to memory

    def _do(self, operation: _Operation) -> None:
        if operation.name is None:
            operation.work()
            return
        with self._turns, span(self._trace, self._name, operation.name):
            operation.work()


class HostStream:
    """A queue of operations, see `Stream`."""

    handle = 0

    def __init__(self, worker: _Worker) -> None:
        self._worker = worker

    def submit(
        self, name: str, work: Callable[[], None], *, reads: Sequence[DeviceTensor], writes: Sequence[DeviceTensor]
    ) -> None:
        """Append an operation; see `Stream.submit`."""
        self._worker.put(_Operation(name, work))

    def upload(self, source: Array, target: DeviceTensor) -> None:
        """Copy in; see `Stream.upload`."""
        view = host_view(target)
        self._worker.put(_Operation("upload", lambda: np.copyto(view, source)))

    def download(self, source: DeviceTensor, target: Array) -> None:
        """Copy out; see `Stream.download`."""
        view = host_view(source)
        self._worker.put(_Operation("download", lambda: np.copyto(target, view)))

    def record(self) -> HostEvent:
        """Event at the present end; see `Stream.record`."""
        event = HostEvent()
        self._worker.put(_Operation(None, lambda: None, event))
        return event

    def wait(self, event: Event) -> None:
        """Order after the event; see `Stream.wait`."""
        self._worker.put(_Operation(None, event.synchronize))

    def synchronize(self) -> None:
        """Wait for everything; see `Stream.synchronize`."""
        self.record().synchronize()


class HostDevice:
    """The host, see `Device`.

    Args:
        at_once: operations that may run at one time, such as 1 for stages that use every core; None for any number.
        trace: records what each stream does when.
    """

    name = "host"
    on_gpu = False

    def __init__(self, *, at_once: int | None = None, trace: Trace | None = None) -> None:
        self._turns = nullcontext() if at_once is None else threading.Semaphore(at_once)
        self._trace = trace
        self._workers: list[_Worker] = []
        self._close = weakref.finalize(self, _close, self._workers, os.getpid())  # also runs when the interpreter ends

    def stream(self, name: str) -> HostStream:
        """A new stream; its thread starts with its first operation."""
        worker = _Worker(name, self._turns, self._trace)
        self._workers.append(worker)
        return HostStream(worker)

    def allocate(self, nbytes: int) -> HostBuffer:
        """Memory; see `Device.allocate`."""
        return HostBuffer(nbytes)

    def host_array(self, shape: tuple[int, ...], dtype: str) -> Array:
        """An array; see `Device.host_array`."""
        return np.empty(shape, dtype)

    def shared_array(self, tensor: DeviceTensor) -> Array:
        """The tensor itself; see `Device.shared_array`."""
        return host_view(tensor)

    def abort(self) -> None:
        """Drop what has not started; see `Device.abort`."""
        for worker in self._workers:
            worker.drop()
        for worker in self._workers:
            worker.settle()

    def close(self) -> None:
        """Finish and end all threads; see `Device.close`."""
        self._close()

    def __enter__(self) -> HostDevice:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class HostSession(ABC):
    """A session on the host: subclasses say what it does with arrays."""

    name = "stage"
    """For traces and messages."""

    @abstractmethod
    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Run the stage once, in the calling thread.

        Args:
            inputs: C-contiguous arrays of the shapes and dtypes in the manifest, read only.
            outputs: C-contiguous arrays to fill, not overlapping the inputs.

        Raises:
            ModelError: the engine failed.
        """

    def enqueue(self, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor], stream: Stream) -> None:
        """Append one `run` to a stream of a `HostDevice`; see `Session.enqueue`."""
        sources = {name: host_view(tensor) for name, tensor in inputs.items()}
        targets = {name: host_view(tensor) for name, tensor in outputs.items()}
        stream.submit(
            self.name,
            lambda: self._run_or_spoil(sources, targets),
            reads=tuple(inputs.values()),
            writes=tuple(outputs.values()),
        )

    def close(self) -> None:  # noqa: B027 - what holds nothing but memory has nothing to do
        """Free the engine; a second call does nothing."""

    def _run_or_spoil(self, sources: Mapping[str, Array], targets: Mapping[str, Array]) -> None:
        """Run; what is not finite comes out as NaN where a stage that looks up places by it refuses the place."""
        try:
            self.run(sources, targets)
        except ModelError:
            if all(np.isfinite(source).all() for source in sources.values()):
                raise
            for target in targets.values():
                target[...] = np.nan if np.issubdtype(target.dtype, np.floating) else 0


def _close(workers: list[_Worker], process: int) -> None:
    if process != os.getpid():  # after a fork the threads are the parent's
        return
    for worker in workers:
        worker.close()
