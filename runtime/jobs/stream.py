"""Restore frames as they come and write them as they are done: for pipes, which are read and written once."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from typing import Protocol

import numpy as np

from bsst.runtime.frames.restorer import Restorer
from bsst.runtime.frames.windows import RestoredWindow, SourceFrame, TileDone
from bsst.runtime.jobs.report import Meter
from bsst.runtime.jobs.segment import Segment
from bsst.runtime.jobs.survey import Survey
from bsst.runtime.jobs.work import Finished
from bsst.runtime.restore import Tiling, restored_windows
from bsst.runtime.trace import Trace, span
from bsst.runtime.video.decoded import Frame

__all__ = ["Sink", "restore_stream"]


class Sink(Protocol):
    """Takes restored frames in order."""

    def write(self, rgb: np.ndarray, *, pts: int, duration: int) -> None:
        """Append (3, H, W) float32 RGB, shown at `pts` for `duration` ticks of the source's time base."""


def restore_stream(
    frames: Iterable[Frame],
    restorer: Restorer,
    tiling: Tiling,
    sink: Sink,
    meter: Meter,
    *,
    survey: Survey | None = None,
    segments: list[Segment] | None = None,
    trace: Trace | None = None,
) -> array[int]:
    """Restore a video, or neighbouring segments of one that was surveyed, in one go.

    Args:
        frames: of the video, or from the first to decode of the segments to the last.
        restorer: an opened plan.
        tiling: how the video is cut up; scenes are those of the survey if there is one.
        sink: where frames go.
        meter: told of every window.
        survey: of the video, with segments.
        segments: each begins where the one before ends.
        trace: records what happens when.

    Returns:
        The time of each frame written.
    """
    first, kept, starts = 0, range(sys.maxsize), frozenset[int]()
    if survey is not None and segments:
        first, kept = segments[0].first, range(segments[0].keep_from, segments[-1].keep_to)
        starts, tiling = frozenset(survey.scenes), replace(tiling, scene_cuts=False)
        meter.resume(len(kept), [])
    coming = iter(frames)

    def sources() -> Iterator[SourceFrame]:
        for index in count(first):
            with span(trace, "decode", "frame"):
                frame = next(coming, None)
                rgb = None if frame is None else frame.rgb
            if frame is None or rgb is None:
                return
            yield SourceFrame(rgb, time=(index, frame.pts, frame.duration), cut=index in starts)

    times = array("q")
    with closing(restored_windows(sources(), restorer, tiling)) as results:
        for result in results:
            if isinstance(result, TileDone):
                meter.worked(min(max(0.0, result.frames + first - kept.start), len(kept)))
                continue
            written = []
            for (index, pts, duration), pixels in zip(result.times, result.frames, strict=True):
                if index in kept:
                    with span(trace, "encode", "frame"):
                        sink.write(pixels, pts=pts, duration=duration)
                    times.append(pts)
                    written.append(index)
            meter.finished(_line(result, written, first, restorer.line))
            del result  # before the next one is awaited
    return times


def _line(result: RestoredWindow, written: list[int], first: int, device: str) -> Finished:
    """What a journal would say of a window."""
    start, end = (written[0], written[-1] + 1) if written else (0, 0)
    return Finished(
        segment=Segment(first=start, last=end, keep_from=start, keep_to=end),
        sha256="",
        size=0,
        fallback=len(written) * result.fallback,
        guarded=sum(first + index in written for index in result.guarded),
        repaired=tuple(first + index for index in result.repaired if first + index in written),
        device=device,
    )
