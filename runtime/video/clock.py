"""When each frame of a video is shown: the file's word, made whole where it says nothing or goes back."""

from __future__ import annotations

from fractions import Fraction

from av.video.frame import VideoFrame

from bsst.runtime.video.facts import VideoInfo

__all__ = ["Clock"]

SHORTEST = Fraction(1, 1000)
"""Seconds of a tick of Matroska."""


class Clock:
    """Sees the decoded frames of a video in order.

    Args:
        info: of the video.
        trust_pts: whether its container stores presentation times at all.
    """

    adjusted: int = 0
    """Frames whose time is made up, where the file has times."""

    def __init__(self, info: VideoInfo, *, trust_pts: bool) -> None:
        self._info, self._times = info, _Times(trust_pts=trust_pts)
        self._last: int | None = None

    def time(self, frame: VideoFrame) -> tuple[int, bool]:
        """Ticks, later than all before, and whether the frame can be found by them in the file."""
        pts = self._times.best(frame.pts, frame.dts)
        exact = pts is not None and not self._times.by_decoder and not self._info.timeline.steps
        if pts is None or (self._last is not None and pts <= self._last):
            self.adjusted += not self._times.by_decoder
            exact = False
            pts = self._made_up(pts, frame.duration or round(1 / (self._info.rate * self._info.time_base)))
        self._last = pts
        return pts, exact and pts == frame.pts

    def _made_up(self, pts: int | None, duration: int) -> int:
        if self._last is None:
            return 0
        if pts is None or self._times.by_decoder:
            return self._last + duration
        # The next time that Matroska can tell apart: others follow where they should.
        return self._last + max(1, min(round(SHORTEST / self._info.time_base), duration // 2))


class _Times:
    """The timestamp of each decoded frame: the file's own, or the decoder's where those are the more broken ones.

    Source: FFmpeg, libavcodec/decode.c, `guess_correct_pts`.
    """

    def __init__(self, *, trust_pts: bool) -> None:
        self._trust_pts = trust_pts
        self._last_pts = self._last_dts = -(2**63)
        self._faulty_pts = self._faulty_dts = 0

    @property
    def by_decoder(self) -> bool:
        """Whether the file's timestamps are the more broken ones."""
        return not self._trust_pts or self._faulty_pts > self._faulty_dts

    def best(self, pts: int | None, dts: int | None) -> int | None:
        if dts is not None:
            self._faulty_dts += dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._faulty_pts += pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        return pts if pts is not None and (not self.by_decoder or dts is None) else dts
