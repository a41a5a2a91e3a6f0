"""Devices: memory, streams of operations, and events that order them; sessions: stages that run on them.

One seam, three implementations: `host.py` (a worker thread per stream), `cuda.py` (the driver) and, for
tests, `tests/runtime/recording.py` (every access gets a vector clock). Operations of one stream run in order;
operations of different streams run in any order unless an event stands between them.

Any thread may call a device. A stream, and the sessions enqueued on it, are used by one thread at a time, which need
not be the thread that made them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["ITEM_BYTES", "Array", "Buffer", "Device", "DeviceTensor", "Event", "Session", "Stream"]

Array = NDArray[np.generic]

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int8": 1, "uint8": 1, "bool": 1}
"""Bytes of one element, by the dtype names of the manifest."""


class Buffer(Protocol):
    """Contiguous memory of a device, aligned to 256 bytes."""

    @property
    def address(self) -> int:
        """First byte; valid until the device is closed."""
        ...

    @property
    def nbytes(self) -> int:
        """Size."""
        ...


@dataclass(frozen=True)
class DeviceTensor:
    """A C-contiguous tensor inside a buffer."""

    buffer: Buffer
    """Where it lies; several tensors may share a buffer, also the same bytes at different times."""
    dtype: str
    """A key of `ITEM_BYTES`."""
    shape: tuple[int, ...]
    """Sizes, slowest axis first."""
    offset: int = 0
    """First byte within the buffer."""

    @property
    def nbytes(self) -> int:
        """Size."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def address(self) -> int:
        """First byte."""
        return self.buffer.address + self.offset

    def frame(self, t: int) -> DeviceTensor:
        """The slice [t : t + 1] of the first axis."""
        size = self.nbytes // self.shape[0]
        return replace(self, shape=(1, *self.shape[1:]), offset=self.offset + t * size)


class Event(Protocol):
    """A point in a stream."""

    def synchronize(self) -> None:
        """Block the calling thread, without the GIL, until the stream has passed this point.

        Raises:
            BsstError: an operation before it failed; the first failure of the stream.
        """
        ...


class Stream(Protocol):
    """A queue of operations that run in order, asynchronously to the caller."""

    @property
    def handle(self) -> int:
        """CUDA stream handle; 0 on devices without one."""
        ...

    def submit(
        self, name: str, work: Callable[[], None], *, reads: Sequence[DeviceTensor], writes: Sequence[DeviceTensor]
    ) -> None:
        """Append an operation.

        Args:
            name: for traces and messages.
            work: on a CUDA device called at once, to issue asynchronous calls on `handle`; elsewhere called when its
                turn comes, on the stream's thread.
            reads: every tensor that the operation reads.
            writes: every tensor that it writes.
        """
        ...

    def upload(self, source: Array, target: DeviceTensor) -> None:
        """Copy a host array, made by `Device.host_array`, to the device; it must stay unchanged until then."""
        ...

    def download(self, source: DeviceTensor, target: Array) -> None:
        """Copy to a host array made by `Device.host_array`."""
        ...

    def record(self) -> Event:
        """Event at the present end of the queue."""
        ...

    def wait(self, event: Event) -> None:
        """Later operations start after the event; the caller does not wait."""
        ...

    def synchronize(self) -> None:
        """Block until everything submitted so far is done; raises like `Event.synchronize`."""
        ...


class Device(Protocol):
    """One place where stages run. Use as a context manager: leaving it stops streams and frees memory."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU."""
        ...

    def stream(self, name: str) -> Stream:
        """A new stream."""
        ...

    def allocate(self, nbytes: int) -> Buffer:
        """Device memory with undefined contents.

        Raises:
            OutOfMemoryError: not enough; the message tells how much was asked for.
        """
        ...

    def host_array(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Host memory that copies can run from asynchronously (pinned on CUDA)."""
        ...

    def shared_array(self, tensor: DeviceTensor) -> Array | None:
        """The tensor's own memory as an array of the host; None where only copies reach it."""
        ...

    def abort(self) -> None:
        """Drop operations that have not started, where the device can, and wait for those that have.

        Threads that wait for dropped operations get a BsstError. Afterwards failures are forgotten and the device can
        be used again.
        """
        ...

    def close(self) -> None:
        """Wait for streams, then free everything; a second call does nothing."""
        ...

    def __enter__(self) -> Device: ...

    def __exit__(self, *error: object) -> None: ...


class Session(Protocol):
    """One loaded stage of a plan, which turns named tensors into named tensors in the order of a stream."""

    def enqueue(self, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor], stream: Stream) -> None:
        """Append one run of the stage to a stream; the caller does not wait.

        Args:
            inputs: tensors of the shapes and dtypes in the manifest.
            outputs: tensors to fill, not overlapping the inputs.
            stream: of the device that holds the tensors.

        Raises:
            ModelError: the engine refuses the call; failures while it runs surface at the next synchronisation.
        """
        ...

    def close(self) -> None:
        """Free the engine; a second call does nothing."""
        ...
