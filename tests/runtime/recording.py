"""A device that proves order instead of timing it: vector clocks, lazy execution, and no tolerance.

Every operation gets a vector clock over streams and host threads (Mattern, "Virtual Time and Global States of
Distributed Systems", 1989). Two accesses to a byte, one of them a write, must be ordered by streams, events or a
host thread that synchronised; otherwise `Violation` is raised where the second one is submitted, whatever would really
have run first. So is a read of bytes that nothing wrote, and any use after `close`.

Nothing runs before a host thread waits for it: then what it waits for runs, in a random legal order, with a random
amount of other work. Fresh device memory and arrays that a download has not reached hold NaN; arrays that an upload
still needs cannot be written and must not be freed. So a missing wait on the host shows as an error or as NaN.
"""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bsst.errors import BsstError
from bsst.runtime.devices.base import Array, DeviceTensor, Event
from bsst.runtime.devices.host import HostBuffer, host_view

__all__ = ["RecordingDevice", "Violation"]

Clock = dict[object, int]


class Violation(AssertionError):
    """An order that nothing guarantees."""


@dataclass(eq=False)
class Operation:
    name: str
    stream: RecordingStream
    clock: Clock
    work: Callable[[], None]
    after: list[Operation]
    """Events of other streams that the stream waits for first."""
    is_event: bool = False
    done: bool = False
    error: BaseException | None = None

    @property
    def tick(self) -> int:
        return self.clock[self.stream]

    def precedes(self, clock: Clock) -> bool:
        return clock.get(self.stream, 0) >= self.tick


@dataclass(eq=False)
class RecordingBuffer(HostBuffer):
    size: int
    device: RecordingDevice
    accesses: list[tuple[int, int, bool, Operation]] = field(default_factory=list)
    """(first byte, end, written, by whom), those that a later write covers left out."""

    def __post_init__(self) -> None:
        super().__init__(self.size)
        self.array[...] = 0xFF  # NaN
        self.written = np.zeros(self.size, bool)

    def access(self, tensor: DeviceTensor, operation: Operation, *, write: bool) -> None:
        if self.device.closed:
            raise Violation(f"{operation.name}: memory used after close")
        start, end = tensor.offset, tensor.offset + tensor.nbytes
        if not write and not self.written[start:end].all():
            raise Violation(f"{operation.name} reads bytes that nothing wrote")
        kept = []
        for first, stop, wrote, other in self.accesses:
            if first < end and start < stop and (write or wrote) and not other.precedes(operation.clock):
                raise Violation(
                    f"{operation.name} on {operation.stream.name} and {other.name} on {other.stream.name} "
                    "use the same bytes in no order"
                )
            if not (write and start <= first and stop <= end):
                kept.append((first, stop, wrote, other))
        self.accesses = [*kept, (start, end, write, operation)]
        if write:
            self.written[start:end] = True


class RecordingEvent:
    def __init__(self, device: RecordingDevice, operation: Operation) -> None:
        self.device, self.operation = device, operation

    def synchronize(self) -> None:
        if self.device.forget_this_wait():
            return
        with self.device.lock:
            self.device.run_until(self.operation)
            merge(self.device.host_clock(), self.operation.clock)
            self.device.release_arrays()
            if self.operation.error is not None:
                raise self.operation.error


class RecordingStream:
    handle = 0

    def __init__(self, device: RecordingDevice, name: str) -> None:
        self.device, self.name = device, name
        self.queue: list[Operation] = []
        self.clock: Clock = {}
        self.after: list[Operation] = []
        self.error: BaseException | None = None

    def submit(
        self, name: str, work: Callable[[], None], *, reads: Sequence[DeviceTensor], writes: Sequence[DeviceTensor]
    ) -> None:
        with self.device.lock:
            operation = self._append(name, work)
            for tensors, write in ((reads, False), (writes, True)):
                for tensor in tensors:
                    assert isinstance(tensor.buffer, RecordingBuffer)
                    tensor.buffer.access(tensor, operation, write=write)

    def upload(self, source: Array, target: DeviceTensor) -> None:
        with self.device.lock:
            reference = self.device.lent(source)
            view = host_view(target)
            self.submit("upload", lambda: np.copyto(view, alive(reference, "upload")), reads=(), writes=(target,))
            self.device.lend(source, self.queue[-1])

    def download(self, source: DeviceTensor, target: Array) -> None:
        with self.device.lock:
            reference = self.device.lent(target)
            view = host_view(source)

            def copy() -> None:
                array = alive(reference, "download")
                array.flags.writeable = True
                np.copyto(array, view)
                array.flags.writeable = False

            if not target.flags.writeable:
                raise Violation("download into an array that another copy still uses")
            target.view(np.uint8)[...] = 0xFF
            self.submit("download", copy, reads=(source,), writes=())
            self.device.lend(target, self.queue[-1])

    def record(self) -> RecordingEvent:
        with self.device.lock:
            operation = self._append("event", lambda: None)
            operation.is_event = True
            return RecordingEvent(self.device, operation)

    def wait(self, event: Event) -> None:
        if self.device.forget_this_wait():
            return
        with self.device.lock:
            assert isinstance(event, RecordingEvent)
            merge(self.clock, event.operation.clock)
            self.after.append(event.operation)

    def synchronize(self) -> None:
        self.record().synchronize()

    def _append(self, name: str, work: Callable[[], None]) -> Operation:
        if self.device.closed:
            raise Violation(f"{name}: stream used after close")
        merge(self.clock, self.device.host_clock())
        self.clock[self] = self.clock.get(self, 0) + 1
        operation = Operation(name, self, dict(self.clock), work, self.after)
        self.after = []
        self.queue.append(operation)
        return operation


class RecordingDevice:
    """See the module.

    Args:
        seed: of the order in which operations run.
        forget: index of a wait, of a stream or of the host, that is not carried out.
    """

    name = "recording"
    on_gpu = False

    def __init__(self, seed: int = 0, *, forget: int | None = None) -> None:
        self.random = random.Random(seed)
        self.forget = forget
        self.waits = 0
        self.closed = False
        self.lock = threading.RLock()
        self.streams: list[RecordingStream] = []
        self.buffers: list[RecordingBuffer] = []
        self.operations = 0
        self._clocks: dict[int, Clock] = {}
        self._arrays: dict[int, weakref.ref[Array]] = {}
        self._lent: list[tuple[weakref.ref[Array], Operation]] = []

    def stream(self, name: str) -> RecordingStream:
        self.streams.append(RecordingStream(self, name))
        return self.streams[-1]

    def allocate(self, nbytes: int) -> RecordingBuffer:
        self.buffers.append(RecordingBuffer(nbytes, self))
        return self.buffers[-1]

    def host_array(self, shape: tuple[int, ...], dtype: str) -> Array:
        array = np.empty(shape, dtype)
        array.view(np.uint8)[...] = 0xFF
        self._arrays[id(array)] = weakref.ref(array)
        return array

    def shared_array(self, tensor: DeviceTensor) -> None:
        return None

    def abort(self) -> None:
        with self.lock:
            for stream in self.streams:
                for operation in stream.queue:
                    operation.done, operation.error = True, BsstError("cancelled")
                stream.queue, stream.after, stream.error = [], [], None
            for buffer in self.buffers:
                buffer.accesses = []  # everything is over, for every thread
            for reference, _ in self._lent:
                if (array := reference()) is not None:
                    array.flags.writeable = True
            self._lent = []

    def close(self) -> None:
        with self.lock:
            if not self.closed:
                for stream in self.streams:
                    while stream.queue:
                        self.run_until(stream.queue[-1])
            self.closed = True

    def __enter__(self) -> RecordingDevice:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def forget_this_wait(self) -> bool:
        with self.lock:
            self.waits += 1
            return self.waits - 1 == self.forget

    def host_clock(self) -> Clock:
        return self._clocks.setdefault(threading.get_ident(), {})

    def lent(self, array: Array) -> weakref.ref[Array]:
        reference = self._arrays.get(id(array))
        if reference is None or reference() is not array:
            raise Violation("copy from or to an array that the device did not make")
        return reference

    def lend(self, array: Array, operation: Operation) -> None:
        """Keep the host from writing until it has synchronised."""
        array.flags.writeable = False
        self._lent.append((self._arrays[id(array)], operation))

    def release_arrays(self) -> None:
        """Hand arrays back whose copies this thread knows to be over."""
        clock = self.host_clock()
        still = [(reference, operation) for reference, operation in self._lent if not operation.precedes(clock)]
        busy = {id(reference()) for reference, _ in still}
        for reference, operation in self._lent:
            array = reference()
            if operation.precedes(clock) and array is not None and id(array) not in busy:
                array.flags.writeable = True
        self._lent = still

    def run_until(self, target: Operation) -> None:
        while not target.done:
            heads = [stream.queue[0] for stream in self.streams if stream.queue]
            self._run(self.random.choice([head for head in heads if all(event.done for event in head.after)]))

    def _run(self, operation: Operation) -> None:
        stream = operation.stream
        stream.queue.pop(0)
        self.operations += 1
        failed = [event.error for event in operation.after if event.error is not None]
        stream.error = stream.error or (failed[0] if failed else None)
        if stream.error is None:
            try:
                operation.work()
            except Violation:
                raise
            except Exception as error:
                stream.error = error
        operation.done, operation.error = True, stream.error


def merge(clock: Clock, other: Clock) -> None:
    for actor, tick in other.items():
        clock[actor] = max(clock.get(actor, 0), tick)


def alive(reference: weakref.ref[Array], what: str) -> Array:
    array = reference()
    if array is None:
        raise Violation(f"{what}: the host array was freed before the copy")
    return array
