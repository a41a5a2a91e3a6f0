"""Segments: whole windows of one scene, restored alone to the same bits as within the whole video.

A scene of n = m * stride + T frames has exactly the windows 0..m (`bsst.runtime.frames.windows`), so a run of whole
windows is itself a short scene, and a segment is restored by `deblur_frames` on its own frames. What its first and last
windows share with the neighbouring segments is decoded for context and not kept.

    T = 6, overlap = 2: two segments of two windows each (| marks what a segment keeps)
    frame      0 1 2 3 4 5 6 7 8 9 . . . . .
    segment 0 |0 1 2 3 4 5 6 7 8|9
    segment 1                  8|9 . . . . . .|
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bsst.runtime.frames.windows import window_count

__all__ = ["Segment", "plan_segments", "segment_length", "share_of", "stretches"]

PIXELS = 96_000_000
"""Pixels of all frames of a segment: some 100 frames of 1280x720, half a minute to a few minutes on a CPU."""
FRAMES = (48, 240)
"""Least and most frames of a segment: each begins with a key frame, and encoders set one every 250 frames anyway."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Frames of one scene by their index in the video, all ranges half-open."""

    first: int
    """First frame to decode."""
    last: int
    """End of the frames to decode."""
    keep_from: int
    """First frame to keep."""
    keep_to: int
    """End of the frames to keep."""

    @property
    def kept(self) -> range:
        """Frames to keep."""
        return range(self.keep_from, self.keep_to)


def segment_length(height: int, width: int) -> int:
    """Frames that a segment should keep; a function of the size alone, so that a resumed job finds the same ones."""
    return min(max(PIXELS // (height * width), FRAMES[0]), FRAMES[1])


def plan_segments(
    scenes: Sequence[int], frames: int, *, length: int, overlap: int, wanted: int, kept: range | None = None
) -> list[Segment]:
    """Cut a video into segments that together keep every frame once, in order.

    Args:
        scenes: first frame of each scene, ascending, the first of them 0.
        frames: of the video.
        length: T, frames of a window.
        overlap: frames shared by neighbouring windows.
        wanted: frames that a segment keeps at least, unless its scene ends.
        kept: frames to keep; all by default. They are restored as they would be within the whole video.

    Raises:
        UsageError: length and overlap do not fit together.
    """
    kept = range(frames) if kept is None else kept
    found: list[Segment] = []
    for start, end in pairwise([*scenes, frames]):
        group: list[Segment] = []
        for window in _windows(start, end, length=length, overlap=overlap):
            lower, upper = max(window.keep_from, kept.start), min(window.keep_to, kept.stop)
            if lower >= upper:
                continue
            group.append(Segment(first=window.first, last=window.last, keep_from=lower, keep_to=upper))
            if upper - group[0].keep_from >= wanted:
                found.append(_joined(group))
                group = []
        if group:
            found.append(_joined(group))
    return found


def share_of(segments: Sequence[Segment], share: tuple[int, int]) -> list[Segment]:
    """Share k of n, neighbours, k counting from 1; sizes differ by one segment at most."""
    number, count = share
    return list(segments[(number - 1) * len(segments) // count : number * len(segments) // count])


def stretches(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Neighbours in runs, each restored in one go: nothing is decoded or estimated twice within a run."""
    run: list[Segment] = []
    for segment in segments:
        if run and run[-1].keep_to != segment.keep_from:
            yield run
            run = []
        run.append(segment)
    if run:
        yield run


def _windows(start: int, end: int, *, length: int, overlap: int) -> Iterator[Segment]:
    """The windows of a scene, each as the smallest segment."""
    count = window_count(end - start, length=length, overlap=overlap)
    done = start
    for index in range(count):
        last = end if index == count - 1 else start + length + index * (length - overlap)
        keep_to = end if index == count - 1 else last - (overlap - overlap // 2)
        yield Segment(first=max(start, last - length), last=last, keep_from=done, keep_to=keep_to)
        done = keep_to


def _joined(group: Sequence[Segment]) -> Segment:
    return Segment(first=group[0].first, last=group[-1].last, keep_from=group[0].keep_from, keep_to=group[-1].keep_to)
