"""One simulated GPU: memory at made-up addresses, streams, events, stream capture, and checks that a GPU lacks.

What CUDA reports becomes a `CudaFailure` with its result code, as the driver would return it. What CUDA leaves
undefined becomes a `Misuse`: an access outside live memory, a host copy from memory that is not page-locked, and a
race, two accesses of the same bytes that no event puts in order (checked with vector clocks when work is enqueued).
Fresh memory holds NaN.

`mode` decides when work happens: "eager" at once, "lazy" as late as a synchronisation allows. A result that needs one
of the two was not ordered.

Time is made up: an operation takes a millisecond, starts when what it waits for is over, and not before what the host
had waited for when it was enqueued. So times show order and overlap, and nothing else.

Sources: CUDA Driver API (https://docs.nvidia.com/cuda/cuda-driver-api/), "Stream Management", "Event Management",
"Graph Management"; CUDA C++ Programming Guide, "Stream capture", "Prohibited and unhandled operations".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

INVALID_VALUE, OUT_OF_MEMORY, INVALID_CONTEXT, INVALID_HANDLE, ILLEGAL_ADDRESS = 1, 2, 201, 400, 700
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED, CAPTURE_ISOLATION = 900, 901, 905
NOT_READY, CAPTURED_EVENT = 600, 907
NO_DEVICE, INVALID_DEVICE, NOT_SUPPORTED = 100, 101, 801
NAMES = {
    INVALID_VALUE: "invalid argument",
    OUT_OF_MEMORY: "out of memory",
    INVALID_CONTEXT: "invalid device context",
    NOT_SUPPORTED: "operation not supported",
    NO_DEVICE: "no CUDA-capable device is detected",
    INVALID_DEVICE: "invalid device ordinal",
    INVALID_HANDLE: "invalid resource handle",
    ILLEGAL_ADDRESS: "an illegal memory access was encountered",
    CAPTURE_UNSUPPORTED: "operation not permitted when stream is capturing",
    CAPTURE_INVALIDATED: "operation failed due to a previous error during capture",
    CAPTURE_ISOLATION: "dependency created on uncaptured work in another stream",
    NOT_READY: "device not ready",
    CAPTURED_EVENT: "operation not permitted on an event last recorded in a capturing stream",
}
OPERATION_MILLISECONDS = 1.0
GUARD = 1 << 12


class Misuse(AssertionError):
    """A GPU would do anything here."""


class CudaFailure(Exception):
    """A result code other than CUDA_SUCCESS."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(f"{call} failed: {NAMES[code]}")
        self.code = code


@dataclass(frozen=True)
class Access:
    """Bytes that an operation reads or writes."""

    address: int
    nbytes: int
    writes: bool


@dataclass
class Operation:
    """Work in a stream; `wait` makes it a wait instead."""

    work: Callable[[], None] | None
    accesses: tuple[Access, ...] = ()
    wait: Point | None = None
    earliest: float = 0.0
    """Milliseconds before which the host had not enqueued it."""


@dataclass(frozen=True)
class Point:
    """An event that was recorded: after how many operations of which stream, and what those had waited for."""

    stream: StreamState
    count: int
    clock: dict[int, int]
    captured: bool
    earliest: float

    @property
    def passed(self) -> bool:
        return self.stream.done >= self.count

    @property
    def milliseconds(self) -> float:
        """When it passed."""
        return max(self.stream.over[self.count], self.earliest)


@dataclass(eq=False)
class StreamState:
    handle: int
    operations: list[Operation] = field(default_factory=list)
    done: int = 0
    over: list[float] = field(default_factory=lambda: [0.0])
    """Milliseconds at which as many operations were over."""
    clock: dict[int, int] = field(default_factory=dict)
    capture: list[Operation] | None = None
    capturing_thread: int = 0
    invalidated: int = 0
    destroyed: bool = False


@dataclass
class EventState:
    timed: bool
    point: Point | None = None
    """Where it was last recorded."""


@dataclass(frozen=True)
class Past:
    access: Access
    stream: int
    count: int


class Gpu:
    """State of the simulated machine; a fresh one for every test."""

    def __init__(self, *, mode: str = "lazy", total: int = 1 << 30, devices: int = 1) -> None:
        assert mode in ("lazy", "eager")
        self.mode, self.total, self.devices = mode, total, devices
        self.lock = threading.RLock()
        self.memory: dict[int, np.ndarray] = {}
        self.freed: list[tuple[int, int]] = []
        self.pinned: dict[int, np.ndarray] = {}
        self.streams: dict[int, StreamState] = {}
        self.events: dict[int, EventState] = {}
        self.graphs: dict[int, list[Operation]] = {}
        self.executables: dict[int, list[Operation]] = {}
        self.past: list[Past] = []
        self.host_clock: dict[int, int] = {}
        """What any thread has waited for; work enqueued afterwards comes after it."""
        self.host_milliseconds = 0.0
        self.current: dict[int, list[int]] = {}
        """Stack of contexts of each thread."""
        self.retained = 0
        self.misuses: list[str] = []
        """What calls of the driver met that a GPU would not report."""
        self.live = {"stream": 0, "event": 0, "memory": 0, "pinned": 0}
        self.calls: list[str] = []
        self.broken: int | None = None
        self._next_address, self._next_handle = 0x7F00_0000_0000, 0x5500

    # contexts

    def driver_stack(self) -> list[int]:
        return self.current.setdefault(threading.get_ident(), [])

    def require_context(self, call: str) -> None:
        self.calls.append(call)
        if not self.driver_stack():
            raise CudaFailure(call, INVALID_CONTEXT)
        if self.broken is not None:
            raise CudaFailure(call, self.broken)

    def handle(self) -> int:
        self._next_handle += 0x10
        return self._next_handle

    # memory

    def allocate(self, nbytes: int) -> int:
        with self.lock:
            self.refuse_while_capturing("cuMemAlloc")
            if nbytes <= 0:
                raise CudaFailure("cuMemAlloc", INVALID_VALUE)
            if nbytes > self.free_bytes():
                raise CudaFailure("cuMemAlloc", OUT_OF_MEMORY)
            address = self._next_address
            self._next_address += -(-nbytes // 256) * 256 + GUARD
            self.memory[address] = np.full(nbytes, 0xFF, np.uint8)
            return address

    def release(self, address: int) -> None:
        with self.lock:
            if address not in self.memory:
                raise Misuse(f"memory at {address:#x} is freed twice")
            self.freed.append((address, self.memory.pop(address).nbytes))

    def free_bytes(self) -> int:
        return self.total - sum(array.nbytes for array in self.memory.values())

    def bytes_at(self, address: int, nbytes: int) -> np.ndarray:
        for start, array in self.memory.items():
            if start <= address and address + nbytes <= start + array.nbytes:
                return array[address - start : address - start + nbytes]
        was = any(start <= address < start + size for start, size in self.freed)
        raise Misuse(f"{nbytes} bytes at {address:#x} are {'freed' if was else 'outside'} memory")

    def check_pinned(self, start: int, nbytes: int) -> None:
        if not any(b <= start and start + nbytes <= b + memory.nbytes for b, memory in self.pinned.items()):
            raise Misuse("an asynchronous copy of host memory that is not page-locked, or no longer")

    # streams

    def stream_of(self, handle: int, call: str) -> StreamState:
        stream = self.streams.get(int(handle))
        if stream is None or stream.destroyed:
            raise CudaFailure(call, INVALID_HANDLE)
        return stream

    def enqueue(self, handle: int, work: Callable[[], None], accesses: Sequence[Access], call: str) -> None:
        with self.lock:
            stream = self.stream_of(handle, call)
            for access in accesses:
                self.bytes_at(access.address, access.nbytes)
            operation = Operation(work, tuple(accesses))
            if stream.capture is not None:
                stream.capture.append(operation)
                return
            self._append(stream, operation)

    def record(self, handle: int) -> Point:
        with self.lock:
            stream = self.stream_of(handle, "cuEventRecord")
            clock = {**stream.clock, stream.handle: len(stream.operations)}
            return Point(stream, len(stream.operations), clock, stream.capture is not None, self.host_milliseconds)

    def query(self, point: Point | None) -> bool:
        with self.lock:
            if point is not None and point.captured:
                raise CudaFailure("cuEventQuery", CAPTURED_EVENT)
            return point is None or point.passed  # an event that was never recorded counts as passed

    def elapsed(self, start: Point | None, end: Point | None) -> float:
        with self.lock:
            if start is None or end is None:
                raise CudaFailure("cuEventElapsedTime", INVALID_HANDLE)
            if start.captured or end.captured:
                raise CudaFailure("cuEventElapsedTime", CAPTURED_EVENT)
            if not (start.passed and end.passed):
                raise CudaFailure("cuEventElapsedTime", NOT_READY)
            return float(np.float32(end.milliseconds - start.milliseconds))

    def wait(self, handle: int, point: Point | None) -> None:
        with self.lock:
            stream = self.stream_of(handle, "cuStreamWaitEvent")
            if point is None:  # an event that was never recorded counts as passed
                return
            if stream.capture is not None:
                if not point.captured:
                    self.invalidate(stream, CAPTURE_ISOLATION, "cuStreamWaitEvent")
                return
            _merge(stream.clock, point.clock)
            self._append(stream, Operation(None, wait=point))

    def synchronize(self, point: Point | None, call: str) -> None:
        with self.lock:
            self.refuse_while_capturing(call)
            if point is not None:
                self._advance(point.stream, point.count)
                _merge(self.host_clock, point.clock)
                if point.passed:
                    self.host_milliseconds = max(self.host_milliseconds, point.milliseconds)
            if self.broken is not None:
                raise CudaFailure(call, self.broken)

    def _append(self, stream: StreamState, operation: Operation) -> None:
        operation.earliest = self.host_milliseconds
        stream.operations.append(operation)
        _merge(stream.clock, self.host_clock)
        for access in operation.accesses:
            self._check_race(stream, access, len(stream.operations))
        if self.mode == "eager":
            self._advance(stream, len(stream.operations))

    def _check_race(self, stream: StreamState, access: Access, count: int) -> None:
        kept = []
        start, end = access.address, access.address + access.nbytes
        for past in self.past:
            first, last = past.access.address, past.access.address + past.access.nbytes
            if last <= start or end <= first:  # apart, as most are
                kept.append(past)
                continue
            ordered = past.stream == stream.handle or past.count <= stream.clock.get(past.stream, 0)
            if (access.writes or past.access.writes) and not ordered:
                raise Misuse(f"a race: {access} in stream {stream.handle:#x} and {past}")
            covered = start <= first and last <= end
            if not (ordered and covered and (access.writes or not past.access.writes)):
                kept.append(past)
        self.past = [*kept, Past(access, stream.handle, count)]

    def _advance(self, stream: StreamState, count: int) -> None:
        goals = [(stream, count)]
        while goals and self.broken is None:
            at, goal = goals[-1]
            if at.done >= goal:
                goals.pop()
                continue
            operation = at.operations[at.done]
            if operation.wait is not None and operation.wait.stream.done < operation.wait.count:
                goals.append((operation.wait.stream, operation.wait.count))
                continue
            waited = 0.0 if operation.wait is None else operation.wait.milliseconds
            begin = max(at.over[-1], operation.earliest, waited)
            at.over.append(begin + (OPERATION_MILLISECONDS if operation.work is not None else 0.0))
            at.done += 1
            at.operations[at.done - 1] = Operation(None)
            if operation.work is not None:
                try:
                    operation.work()
                except CudaFailure as error:  # sticky, as in CUDA
                    self.broken = error.code

    # capture

    def refuse_while_capturing(self, call: str) -> None:
        """Calls that a thread-local capture forbids in its own thread."""
        for stream in self.streams.values():
            if stream.capture is not None and stream.capturing_thread == threading.get_ident():
                self.invalidate(stream, CAPTURE_UNSUPPORTED, call)

    def invalidate(self, stream: StreamState, code: int, call: str) -> None:
        stream.invalidated = code
        raise CudaFailure(call, code)

    # what a test asks at the end

    def leftovers(self) -> dict[str, object]:
        """Everything that a closed device must not leave behind."""
        left: dict[str, object] = {name: count for name, count in self.live.items() if count}
        if current := [stack for stack in self.current.values() if stack]:
            left["contexts that stay current"] = len(current)
        if self.retained:
            left["retained contexts"] = self.retained
        if self.executables:
            left["graphs"] = len(self.executables)
        if self.misuses:
            left["misuses"] = self.misuses
        return left


def _merge(clock: dict[int, int], other: dict[int, int]) -> None:
    for stream, count in other.items():
        clock[stream] = max(count, clock.get(stream, 0))


GPU = Gpu()


def reset(**options: object) -> Gpu:
    """A fresh machine."""
    GPU.__init__(**options)  # type: ignore[misc,arg-type]
    return GPU
