"""Restored frames by their index, asked for in any order: what a frame server needs.

Frames are equal to those of the whole video, because a request starts at the window that holds its frame, and windows
restored alone are (`bsst.runtime.jobs.segment`). Requests near the last one go on from there; others start again, which
costs one window. Held at a time: what restoring a window takes, and the frames of the last two windows.

Where scenes begin depends on all frames before: a request far ahead looks at each frame between, once, without
restoring it.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace

import numpy as np

from bsst.runtime.frames.layout import CallersFrames
from bsst.runtime.frames.restorer import Restorer
from bsst.runtime.frames.scenes import CutFinder, frame_luma
from bsst.runtime.frames.windows import RestoredWindow, SourceFrame, TileDone
from bsst.runtime.jobs.segment import plan_segments
from bsst.runtime.restore import Tiling, restored_windows

__all__ = ["RandomAccess"]


class RandomAccess:
    """Serves one request at a time; others wait.

    Args:
        read: index -> (3, H, W) float32 RGB, nominally in [0, 1], the same each time; not kept. Called in the thread of
            the request.
        count: frames.
        restorer: an opened plan with one clip in flight.
        tiling: how the video is cut up; as the plan recommends by default.
    """

    def __init__(
        self, read: Callable[[int], np.ndarray], count: int, restorer: Restorer, tiling: Tiling | None = None
    ) -> None:
        assert restorer.in_flight == 1, "with more, frames would be read in another thread"
        self._read, self._count, self._restorer = read, count, restorer
        self._tiling = tiling or Tiling()
        self._overlap = self._tiling.window_overlap
        if self._overlap is None:
            self._overlap = restorer.window_overlap
        self._finder, self._scenes, self._seen = CutFinder(), [0], 0
        self._windows: Generator[RestoredWindow | TileDone] | None = None
        self._next = 0  # the first frame that `_windows` has not restored
        self._offset = 0  # of the frame that `_windows` began with
        self._held: list[dict[int, np.ndarray]] = []
        self._lock = threading.Lock()

    def frame(self, index: int) -> np.ndarray:
        """The restored frame, (3, H, W) float32 RGB, limited as by `deblur_frames`; not to be written to.

        Raises:
            BsstError: as `deblur_frames`, and the next request starts afresh.
        """
        with self._lock:
            while (found := self._known(index)) is None:
                if self._windows is None or not self._next <= index < self._next + self._restorer.frames:
                    self._start(index)
                self._advance()
            return found

    def close(self) -> None:
        """Give up what is under way."""
        with self._lock:
            self._stop()
            self._held = []

    def _known(self, index: int) -> np.ndarray | None:
        return next((window[index] for window in self._held if index in window), None)

    def _start(self, index: int) -> None:
        """At the window that holds a frame; the frames that an earlier window keeps are left out."""
        self._stop()
        length = self._restorer.frames
        # Two windows further no end of the scene changes what this window is.
        scenes, seen = self._cuts_until(min(index + 2 * length, self._count - 1))
        edges = [*scenes, seen]
        start, end = next((a, b) for a, b in zip(edges, edges[1:], strict=False) if a <= index < b)
        kept = range(max(start, index - length), index + 1)
        segment = plan_segments([start], end, length=length, overlap=self._overlap or 0, wanted=1, kept=kept)[-1]
        self._windows = restored_windows(
            self._sources(segment.first), self._restorer, replace(self._tiling, scene_cuts=False)
        )
        self._next, self._offset = segment.keep_from, segment.first

    def _advance(self) -> None:
        """Hold one more window."""
        assert self._windows is not None
        try:
            result = next(r for r in self._windows if isinstance(r, RestoredWindow))
        except BaseException:
            self._stop()
            raise
        indices = range(self._offset + result.first, self._offset + result.first + len(result.frames))
        window = {i: f for i, f in zip(indices, result.frames, strict=True) if i >= self._next}
        if window:
            self._held = [*self._held[-1:], window]
            self._next = indices.stop

    def _stop(self) -> None:
        if self._windows is not None:
            self._windows.close()
            self._windows = None

    def _sources(self, first: int) -> Iterator[SourceFrame]:
        read = CallersFrames((self._read(index) for index in range(first, self._count)), start=first)
        for index, pixels in enumerate(read, first):
            self._look(index, pixels)
            yield SourceFrame(pixels, cut=self._starts(index))

    def _cuts_until(self, index: int) -> tuple[list[int], int]:
        """First frames of scenes, and how many frames were looked at: at least to the frame `index`."""
        if not self._tiling.scene_cuts:
            return [0], self._count
        while self._seen <= index:
            self._look(self._seen, self._read(self._seen))
        return self._scenes, self._seen

    def _starts(self, index: int) -> bool:
        place = bisect_left(self._scenes, index)
        return place < len(self._scenes) and self._scenes[place] == index

    def _look(self, index: int, pixels: np.ndarray) -> None:
        if self._tiling.scene_cuts and index == self._seen:
            self._seen += 1
            if self._finder.see(frame_luma(pixels)):
                self._scenes.append(index)
