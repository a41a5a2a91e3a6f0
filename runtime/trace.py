"""What happened when, as a file that https://ui.perfetto.dev and chrome://tracing open.

Source: "Trace Event Format", complete events (`"ph": "X"`), times in microseconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bsst.files import atomic_file

__all__ = ["Span", "Trace", "span"]


@dataclass(frozen=True)
class Span:
    """Something that took time."""

    track: str
    """A stream, or a thread of the pipeline."""
    name: str
    """What it was."""
    start: float
    """Seconds since the trace began."""
    seconds: float
    """How long it took."""


class Trace:
    """Collects spans; any thread may add some."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._origin = time.perf_counter()

    @contextmanager
    def span(self, track: str, name: str) -> Iterator[None]:
        """Time the body."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(track, name, start, time.perf_counter())

    def add(self, track: str, name: str, start: float, end: float) -> None:
        """A span between two readings of `time.perf_counter`."""
        self.spans.append(Span(track, name, start - self._origin, end - start))

    def write(self, path: Path) -> None:
        """Write Chrome's JSON.

        Raises:
            OutputError: the file cannot be written.
        """
        tracks = {track: index for index, track in enumerate(dict.fromkeys(span.track for span in self.spans))}
        names = [
            {"ph": "M", "name": "thread_name", "pid": 0, "tid": index, "args": {"name": track}}
            for track, index in tracks.items()
        ]
        events = [
            {"ph": "X", "name": s.name, "pid": 0, "tid": tracks[s.track], "ts": s.start * 1e6, "dur": s.seconds * 1e6}
            for s in self.spans
        ]
        with atomic_file(path) as file:
            file.write(json.dumps({"traceEvents": names + events}).encode())


def span(trace: Trace | None, track: str, name: str) -> AbstractContextManager[None]:
    """Time the body if there is a trace."""
    return nullcontext() if trace is None else trace.span(track, name)
