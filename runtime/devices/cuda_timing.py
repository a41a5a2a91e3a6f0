"""Events of CUDA that are used again, and what they tell about when a GPU did what.

A GPU stamps an event when the stream reaches it, so a pair of events around an operation gives its start and its end
with nobody waiting. All times are taken from one origin, which the host waits for once. They come as float32
milliseconds: an hour into a run the place of a span is good to a quarter of a millisecond, its length still to less
than a microsecond. The events take a little time of the GPU themselves, so a traced run is not one to measure.

Not run on a GPU; tested over a driver library of ours (`tests/fakes/libcuda`).
Source: CUDA Driver API, "Event Management" (cuEventElapsedTime: resolution, CU_EVENT_DISABLE_TIMING).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bsst.runtime.devices.cuda_api import CudaApi, CudaError
from bsst.runtime.trace import Trace

__all__ = ["EventPool", "OperationTimes"]


class EventPool:
    """Events with the same flags, so that none is made per frame.

    Args:
        api: calls of the driver.
        timed: whether they tell times.
    """

    def __init__(self, api: CudaApi, *, timed: bool) -> None:
        self._api, self._timed = api, timed
        self._events: list[int] = []
        self._free: list[int] = []

    def take(self) -> int:
        """An event that nobody uses; the context must be current."""
        try:
            return self._free.pop()
        except IndexError:
            event = self._api.make_event(timed=self._timed)
            self._events.append(event)
            return event

    def give_back(self, event: int) -> None:
        """From any thread; waits that were queued on the event keep the point they were queued for."""
        self._free.append(event)

    def clear(self) -> None:
        """Free every event; the context must be current."""
        for event in self._events:
            with suppress(CudaError):  # a failed context reports its failure again, and frees all the same
                self._api.destroy_event(event)
        self._events, self._free = [], []


class OperationTimes:
    """Spans of the operations of a GPU. Any thread may call; the context must be current in every call.

    Args:
        api: calls of the driver.
        trace: gets the spans.
    """

    def __init__(self, api: CudaApi, trace: Trace) -> None:
        self._api = api
        self._trace = trace
        self._pool = EventPool(api, timed=True)
        self._under_way: deque[tuple[str, str, int, int]] = deque()
        self._lock = threading.Lock()
        self._origin = self._pool.take()
        stream = api.make_stream()
        try:
            before = time.perf_counter()
            api.record(self._origin, stream)
            api.synchronize(self._origin)
            self._seconds = (before + time.perf_counter()) / 2
            """`time.perf_counter` at the origin, as well as the host can tell."""
        finally:
            with suppress(CudaError):
                api.destroy_stream(stream)

    @contextmanager
    def around(self, track: str, name: str, stream: int) -> Iterator[None]:
        """Time what the body submits to a stream; nothing where the body fails."""
        start, end = self._pool.take(), self._pool.take()
        try:
            self._api.record(start, stream)
            yield
            self._api.record(end, stream)
        except BaseException:
            self._pool.give_back(start)
            self._pool.give_back(end)
            raise
        self._under_way.append((track, name, start, end))

    def collect(self) -> None:
        """Make spans of the operations that are over, in the order of submission up to the first that is not."""
        with self._lock:
            while self._under_way and self._api.passed(self._under_way[0][3]):
                track, name, start, end = self._under_way[0]
                begin = self._seconds + self._api.elapsed(self._origin, start) / 1000
                self._trace.add(track, name, begin, begin + self._api.elapsed(start, end) / 1000)
                self._under_way.popleft()
                self._pool.give_back(start)
                self._pool.give_back(end)

    def clear(self) -> None:
        """Forget what has not been collected and free every event."""
        self._under_way.clear()
        self._pool.clear()
