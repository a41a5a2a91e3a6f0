"""How the command line shows a running job: a bar, plain lines, JSON lines, or nothing."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from bsst.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bsst.cli.many import Outcome
    from bsst.runtime.jobs.report import Progress, Result

__all__ = ["Bar", "JsonLines", "Lines", "Quiet", "clock"]


class Quiet:
    """Shows warnings only. The base of the others; a context manager around the job."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def progress(self, state: Progress) -> None:
        """The job went on."""

    def info(self, message: str) -> None:
        """What the job uses."""

    def warning(self, message: str) -> None:
        """Something the user should know; the job goes on."""
        print(printable(f"warning: {message}"), file=sys.stderr)

    def result(self, result: Result, name: str) -> None:
        """The job is done, and its result is called so."""

    def failure(self, message: str) -> None:
        """One of several jobs failed; the others go on."""
        print(printable("error: " + " ".join(message.split())), file=sys.stderr)

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """What became of several jobs."""


class Lines(Quiet):
    """One line every `seconds` on standard error, for logs and pipes."""

    def __init__(self, seconds: float = 10) -> None:
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def info(self, message: str) -> None:
        """Print."""
        print(printable(message), file=sys.stderr)

    def progress(self, state: Progress) -> None:
        """Print if it is time."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._seconds
        total = "" if state.total is None else f" of {state.total}"
        left = "" if state.eta_seconds is None else f", {clock(state.eta_seconds)} left"
        print(f"{state.frames}{total} frames, {state.fps:.2f} fps{left}", file=sys.stderr)

    def result(self, result: Result, name: str) -> None:
        """Print what was written."""
        fallback = f", {result.fallback} of them by the float32 fallback" if result.fallback else ""
        print(
            printable(f"{name}: {result.frames} frames in {clock(result.seconds)}, {result.fps:.2f} fps{fallback}"),
            file=sys.stderr,
        )

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """A line for each."""
        for outcome in outcomes:
            print(printable(" ".join(outcome.line.split())), file=sys.stderr)


class Bar(Lines):
    """A progress bar on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as RichProgress

        super().__init__()
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("deblurring", total=None, speed="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def progress(self, state: Progress) -> None:
        """Move the bar."""
        left = "" if state.eta_seconds is None else f"  {clock(state.eta_seconds)} left"
        frames = f"{state.frames}/{state.total or '?'} frames  {state.fps:.2f} fps{left}"
        self._bar.update(self._task, completed=state.work, total=state.total, speed=frames)

    def info(self, message: str) -> None:
        """Print above the bar."""
        self._bar.console.print(printable(message), markup=False, highlight=False)

    def warning(self, message: str) -> None:
        """Print above the bar."""
        self._bar.console.print(printable(f"warning: {message}"), markup=False, highlight=False)

    def result(self, result: Result, name: str) -> None:
        """Print what was written in place of the bar."""
        self._bar.stop()
        super().result(result, name)


class JsonLines(Quiet):
    """One JSON object a line on standard output: events `info`, `progress`, `warning`, `result`, `error`,
    and after several videos `file` for each.
    """

    def __init__(self, stream: TextIO | None = None, seconds: float = 1) -> None:
        self._stream = stream or sys.stdout
        self._seconds = seconds
        self._next = 0.0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._write("error", type=type(error).__name__, message=str(error))

    def progress(self, state: Progress) -> None:
        """At most one line a second."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._seconds
            self._write("progress", **dataclasses.asdict(state))

    def info(self, message: str) -> None:
        """One line."""
        self._write("info", message=message)

    def warning(self, message: str) -> None:
        """One line."""
        self._write("warning", message=message)

    def result(self, result: Result, name: str) -> None:
        """One line."""
        self._write("result", **{**dataclasses.asdict(result), "output": name})

    def failure(self, message: str) -> None:
        """Said by `outcomes`, and by the event of the error."""

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """A line for each."""
        for outcome in outcomes:
            job = outcome.job
            self._write("file", video=str(job.video), output=str(job.out), status=outcome.status, message=outcome.line)

    def _write(self, event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **values}), file=self._stream, flush=True)


def clock(seconds: float) -> str:
    """83.2 -> "1:23"; 5000 -> "1:23:20"; below a minute "12.3 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
