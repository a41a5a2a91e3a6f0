"""What a job tells while it runs and when it is done."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bsst.runtime.jobs.work import Finished
from bsst.runtime.trace import Trace

__all__ = ["Meter", "Observer", "Progress", "Result"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """State of a running job."""

    frames: int
    """Frames written."""
    work: float
    """Frames restored, including the finished part of the current window."""
    total: int | None
    """Frames that the file announces; None when unknown."""
    fps: float
    """Frames restored per second so far."""
    eta_seconds: float | None
    """Seconds left; None when the total or the speed is unknown."""


@dataclass(frozen=True, kw_only=True)
class Observer:
    """Whom a job tells how it goes, in the thread that called it; nobody by default."""

    info: Callable[[str], None] = lambda line: None
    """What runs the plan, and what decodes and encodes, before the first frame."""
    progress: Callable[[Progress], None] = lambda progress: None
    """Called after each tile and each frame."""
    warning: Callable[[str], None] = lambda message: None
    """Called with each warning as soon as it is known."""
    trace: Trace | None = None
    """Records what happens when; with an opened plan, decoding and encoding alone."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished job."""

    output: Path
    """The file, under its final name."""
    frames: int
    """Frames in it, as many as in the source."""
    fallback: int
    """Frames of windows whose result was not finite and that the float32 fallback restored."""
    guarded: int
    """Frames in which an implausible change was blended back to the source."""
    repaired: int
    """Frames whose restoration was not finite, in float32 either; the source's frame stands in for each."""
    seconds: float
    """Wall-clock time from the first frame to the verified file."""
    fps: float
    """Frames restored per second of that time, without those that an earlier run finished."""
    warnings: tuple[str, ...]
    """Every warning that the observer got, in order."""


class Meter:
    """Counts what a job does, and tells its observer.

    Args:
        total: frames that the file announces; None when unknown.
        observer: whom to tell.
    """

    def __init__(self, total: int | None, observer: Observer) -> None:
        self.frames = 0
        self._restored = self._fallback = self._guarded = 0
        self._repaired = array("q")
        self._devices = set[str]()
        self._found = self._work = 0.0
        self._total, self._observer = total, observer
        self._warnings: list[str] = []
        self._start = time.monotonic()

    def info(self, line: str) -> None:
        """Tell what is used."""
        self._observer.info(line)

    def warn(self, messages: Iterable[str]) -> None:
        """Tell each message once."""
        for message in messages:
            if message not in self._warnings:
                self._warnings.append(message)
                self._observer.warning(message)

    def resume(self, total: int, found: Iterable[Finished]) -> None:
        """Count what an earlier run finished; the clock starts with what is left."""
        self._total = total
        for line in found:
            self._count(line)
        self._found, self._restored = self.frames, 0
        self._start = time.monotonic()

    def finished(self, line: Finished) -> None:
        """Count a segment of this run."""
        if line.fallback and not self._fallback:
            frames = f"frames {line.segment.keep_from} to {line.segment.keep_to - 1}"
            why = "by the float32 fallback, as they were not finite; so is every other like them"
            self.warn([f"windows among {frames} were restored {why}"])
        self._count(line)
        self.worked(self._restored)

    def worked(self, work: float) -> None:
        """Tell how many frames this run has restored so far."""
        self._work = work = max(self._found + work, self._work)
        fps = (work - self._found) / self._seconds()
        known = self._total is not None and self._total >= work and fps > 0
        self._observer.progress(
            Progress(
                frames=int(work),
                work=work,
                total=self._total,
                fps=fps,
                eta_seconds=((self._total or 0) - work) / fps if known else None,
            )
        )

    def result(self, output: Path) -> Result:
        """The job, finished now; warns of frames that are not what the network made."""
        if self._guarded:
            places = "in places where the change was implausible; --no-guard shows the network's own picture"
            self.warn([f"{self._guarded} of {self.frames} frames were left as they were {places}"])
        if self._repaired:
            count = f"{len(self._repaired)} of {self.frames} frames could not be restored and are unchanged"
            self.warn([f"{count}: {_ranges(self._repaired)}"])
        if len(self._devices) > 1:
            self.warn([f"segments were restored by different devices, whose results may differ by rounding: "
                       f"{'; '.join(sorted(self._devices))}"])  # fmt: skip
        seconds = self._seconds()
        return Result(
            output=output,
            frames=self.frames,
            fallback=self._fallback,
            guarded=self._guarded,
            repaired=len(self._repaired),
            seconds=seconds,
            fps=self._restored / seconds,
            warnings=tuple(self._warnings),
        )

    def _count(self, line: Finished) -> None:
        count = len(line.segment.kept)
        self.frames += count
        self._restored += count
        self._fallback += line.fallback
        self._guarded += line.guarded
        self._repaired.extend(line.repaired)
        self._devices.add(line.device)

    def _seconds(self) -> float:
        return max(time.monotonic() - self._start, 1e-9)


def _ranges(numbers: Iterable[int], limit: int = 8) -> str:
    """0, 1, 2, 7 -> "0-2, 7"; after `limit` ranges "..."."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    shown = [f"{first}-{last}" if last > first else str(first) for first, last in found[:limit]]
    return ", ".join(shown + ["..."] * (len(found) > limit))
