"""A part of a video by time, exact to the frame.

Times count from the first frame. A time names the frame that is shown there to the nearest thousandth of a second, so
both 0.334 and 0.333667 name frame 10 of 29.97 a second. A part is restored as it would be within the whole video.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from bsst.errors import UsageError
from bsst.runtime.video.cut import Cut
from bsst.runtime.video.decoded import Frame
from bsst.runtime.video.facts import MOST_FRAMES_PER_SECOND
from bsst.runtime.video.sizes import SizeChange

__all__ = ["Part", "Preview", "parse_rate", "parse_time"]

NEAREST = Fraction(1, 2000)
Time = str | float | Fraction


@dataclass(frozen=True, kw_only=True)
class Part:
    """Half-open, in seconds after the first frame; `Part.of` makes one and checks it."""

    start: Fraction = Fraction(0)
    end: Fraction | None = None

    @classmethod
    def of(cls, *, start: Time | None = None, end: Time | None = None, duration: Time | None = None) -> Part:
        """From seconds or from text such as "1:30.5".

        Raises:
            UsageError: no times, or times that leave nothing.
        """
        if end is not None and duration is not None:
            raise UsageError(f"expected an end or a duration, got both, {end} and {duration}; leave one out")
        first = parse_time(start or 0)
        last = None if end is None else parse_time(end)
        if duration is not None:
            last = first + parse_time(duration)
        if last is not None and last <= first:
            raise UsageError(f"expected a part that ends after it starts, got {float(first):g} s to {float(last):g} s")
        return cls(start=first, end=last)

    def __str__(self) -> str:
        return f"from {_decimal(self.start)} to {'the end' if self.end is None else _decimal(self.end)}"

    @property
    def over(self) -> Fraction | None:
        """Seconds from which no frame belongs to it; None where all do to the end."""
        return None if self.end is None else self.end - NEAREST

    def frames(self, times: Sequence[int], time_base: Fraction) -> range:
        """Indices of its frames.

        Args:
            times: of all frames in ticks, ascending.
            time_base: seconds per tick.

        Raises:
            UsageError: there are none.
        """
        first = bisect_left(times, times[0] + self._ticks(self.start, time_base))
        last = len(times) if self.end is None else bisect_left(times, times[0] + self._ticks(self.end, time_base))
        if first >= last:
            raise UsageError(
                f"expected frames {self}, found none; the last frame of the video that "
                f"was read is at {float((times[-1] - times[0]) * time_base):.3f} s"
            )
        return range(first, last)

    def cut(self, times: Sequence[int], time_base: Fraction) -> Cut:
        """Where its first frame is shown, and where the first one after it."""
        kept = self.frames(times, time_base)
        end = None if kept.stop == len(times) else times[kept.stop] * time_base
        return Cut(start=times[kept.start] * time_base, end=end)

    def read(self, frames: Iterable[Frame], time_base: Fraction, *, further: int) -> Iterator[Frame]:
        """Frames from the first one to `further` frames after the end: more do not change how the part is restored."""
        begin: int | None = None
        try:
            for frame in frames:
                begin = frame.pts if begin is None else begin
                if self.end is not None and frame.pts >= begin + self._ticks(self.end, time_base):
                    if not further:
                        return
                    further -= 1
                yield frame
        except SizeChange as change:
            if self.over is None or change.seconds < self.over:
                raise

    def count(self, frames: int, rate: Fraction) -> int:
        """How many of a video's frames it has, by their average rate."""
        last = frames if self.end is None else min(frames, math.ceil(self.end * rate))
        return max(0, last - math.ceil(self.start * rate))

    @staticmethod
    def _ticks(seconds: Fraction, time_base: Fraction) -> int:
        return math.ceil((seconds - NEAREST) / time_base)


def _decimal(seconds: Fraction) -> str:
    return f"{float(seconds):.6f}".rstrip("0").rstrip(".") + " s"


def parse_rate(text: str) -> Fraction:
    """Frames a second: "24", "23.976", "30000/1001".

    Raises:
        UsageError: it is none.
    """
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= MOST_FRAMES_PER_SECOND:
        raise UsageError(f"expected a rate such as 25, 23.976 or 30000/1001, got {text}")
    return rate.limit_denominator(1_000_000)


@dataclass(frozen=True)
class Preview:
    """The part with most blur, source on the left and restored on the right; see `bsst.runtime.jobs.preview`."""

    seconds: float | Fraction
    """Length; all of a video that is shorter."""


def parse_time(time: Time) -> Fraction:
    """Seconds, or text: "90", "1:30", "0:01:30.5", "5s".

    Raises:
        UsageError: neither, or below zero.
    """
    if not isinstance(time, str):
        if not math.isfinite(time) or time < 0:
            raise UsageError(f"expected a time of zero or more seconds, got {time}")
        return Fraction(time).limit_denominator(1_000_000)
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):(?=[0-5]?\d(?!\d)))?(\d+(?:\.\d*)?|\.\d+)s?", time.strip())
    if match is None:
        raise UsageError(f"expected a time such as 90, 1:30 or 0:01:30.5, got {time}")
    hours, minutes, seconds = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + Fraction(seconds)
