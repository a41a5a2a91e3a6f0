"""Events of pycuda that are used again, and what they tell about when a GPU did what.

A GPU stamps an event when the stream reaches it, so a pair of events around an operation gives its start and its end
with nobody waiting. All times are taken from one origin, which the host waits for once. They come as float32
milliseconds: an hour into a run the place of a span is good to a quarter of a millisecond, its length still to less
than a microsecond. The events take a little time of the GPU themselves, so a traced run is not one to measure.

Not run here: no GPU; tested with a strict fake (`tests/runtime/fakes/pycuda`).
Sources: https://documen.tician.de/pycuda/driver.html (Event: query, time_since and time_till, which fail where an event
has not been reached); CUDA Driver API, "Event Management" (cuEventElapsedTime: resolution, CU_EVENT_DISABLE_TIMING).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bsst.runtime.trace import Trace

__all__ = ["EventPool", "OperationTimes"]


class EventPool:
    """Events with the same flags, so that none is made per frame.

    An event comes in a list, which `clear` empties: whoever still holds the list keeps no event alive.

    Args:
        cuda: module `pycuda.driver`.
        flags: of `pycuda.driver.event_flags`.
    """

    def __init__(self, cuda: Any, flags: int) -> None:
        self._cuda, self._flags = cuda, flags
        self._events: list[list[Any]] = []
        self._free: list[list[Any]] = []

    def take(self) -> list[Any]:
        """An event that nobody uses; the context must be current."""
        try:
            return self._free.pop()
        except IndexError:
            event = [self._cuda.Event(self._flags)]
            self._events.append(event)
            return event

    def give_back(self, event: list[Any]) -> None:
        """From any thread; waits that were queued on the event keep the point they were queued for."""
        self._free.append(event)

    def clear(self) -> None:
        """Free every event; the context must be current."""
        for event in self._events:
            event.clear()


class OperationTimes:
    """Spans of the operations of a GPU. Any thread may call; the context must be current in every call.

    Args:
        cuda: module `pycuda.driver`.
        trace: gets the spans.
        stream: idle stream of pycuda, for the origin.
    """

    def __init__(self, cuda: Any, trace: Trace, stream: Any) -> None:
        self._trace = trace
        self._pool = EventPool(cuda, cuda.event_flags.DEFAULT)
        self._under_way: deque[tuple[str, str, list[Any], list[Any]]] = deque()
        self._lock = threading.Lock()
        self._origin = self._pool.take()
        before = time.perf_counter()
        self._origin[0].record(stream)
        self._origin[0].synchronize()
        self._seconds = (before + time.perf_counter()) / 2
        """`time.perf_counter` at the origin, as well as the host can tell."""

    @contextmanager
    def around(self, track: str, name: str, stream: Any) -> Iterator[None]:
        """Time what the body submits to a stream; nothing where the body fails."""
        start, end = self._pool.take(), self._pool.take()
        try:
            start[0].record(stream)
            yield
            end[0].record(stream)
        except BaseException:
            self._pool.give_back(start)
            self._pool.give_back(end)
            raise
        self._under_way.append((track, name, start, end))

    def collect(self) -> None:
        """Make spans of the operations that are over, in the order of submission up to the first that is not."""
        with self._lock:
            while self._under_way and self._under_way[0][3][0].query():
                track, name, start, end = self._under_way[0]
                begin = self._seconds + start[0].time_since(self._origin[0]) / 1000
                self._trace.add(track, name, begin, begin + end[0].time_since(start[0]) / 1000)
                self._under_way.popleft()
                self._pool.give_back(start)
                self._pool.give_back(end)

    def clear(self) -> None:
        """Forget what has not been collected and free every event."""
        self._under_way.clear()
        self._pool.clear()
