"""Whether a film keeps its size: recordings of calls, turned screens and broadcasts may change it after hours.

Containers tell one size. The truth is in key frames, and one now and then is decoded while a file is scanned: what
changes is known before the first frame is restored. Short films are not worth it, they come to the change soon enough.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av
import av.error
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from bsst.errors import InputError

__all__ = ["Size", "SizeChange", "SizeFinder"]

EVERY = 250
"""Packets from one key frame that is looked at to the next; some ten seconds."""
TELLING = {"av1", "h264", "hevc", "libdav1d", "mpeg2video", "mpeg4", "vp8", "vp9", "vvc"}
"""Codecs whose stream may tell a new size anywhere, with key frames few enough to decode some more."""


@dataclass(frozen=True)
class Size:
    """Of the frame at a time."""

    seconds: Fraction
    """After the first frame."""
    height: int
    width: int


class SizeChange(InputError):
    """A frame unlike the first.

    Args:
        message: expected, got, remedy.
        seconds: when it is shown, after the first.
    """

    def __init__(self, message: str, seconds: Fraction) -> None:
        super().__init__(message)
        self.seconds = seconds


class SizeFinder:
    """Sees the packets of a stream and looks at a key frame in `EVERY`, and at the last one.

    Args:
        stream: its decoder is left alone.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._telling = stream.codec_context is not None and stream.codec_context.name in TELLING
        self._packets = self._asked = 0
        self._last: tuple[Packet[Any], Fraction] | None = None
        self._found: list[Size] = []

    def see(self, packet: Packet[Any], seconds: Fraction) -> None:
        """A packet with data, shown that many seconds after the first."""
        self._packets += 1
        if not (self._telling and packet.is_keyframe) or packet.is_corrupt:
            return
        if self._packets - self._asked <= EVERY:
            self._last = packet, seconds
            return
        self._asked, self._last = self._packets, None
        self._ask(packet, seconds)

    def found(self) -> tuple[Size, ...]:
        """After the last packet: sizes of frames that were looked at."""
        if self._last is not None and self._packets > EVERY:
            self._ask(*self._last)
            self._last = None
        return tuple(self._found)

    def _ask(self, packet: Packet[Any], seconds: Fraction) -> None:
        """One that cannot be decoded alone says nothing."""
        with suppress(av.error.FFmpegError, ValueError):
            own = self._stream.codec_context
            decoder = cast(VideoCodecContext, av.CodecContext.create(own.name, "r"))
            decoder.extradata, decoder.thread_count = own.extradata, 1
            frames = decoder.decode(packet) or decoder.decode(None)
            self._found += [Size(seconds, frame.height, frame.width) for frame in frames[:1]]
