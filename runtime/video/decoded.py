"""Decoded frames with their times, and the plain way to decode a stream."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from bsst.runtime.video.colour import Encoding, luma_from_planes, rgb_from_planes
from bsst.runtime.video.frame import frame_to_planes
from bsst.runtime.video.timeline import Timeline

__all__ = ["Frame", "decoded_frames"]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One decoded frame; its colours are computed when somebody asks for them."""

    picture: VideoFrame
    """As it was decoded."""
    encoding: Encoding
    """What its code values mean."""
    reformatter: VideoReformatter
    """Makes planes of what is none; shared by the frames of a video."""
    pts: int
    """Presentation time in ticks of `VideoInfo.time_base`, strictly increasing."""
    duration: int
    """Ticks; 0 when unknown."""
    exact: bool
    """Whether `pts` is what the file says, so that the frame can be found by it."""

    @cached_property
    def rgb(self) -> np.ndarray:
        """(3, H, W) float32 RGB, nominally in [0, 1]."""
        return rgb_from_planes(self.planes, self.encoding)

    @cached_property
    def planes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `rgb_from_planes`."""
        return frame_to_planes(self.picture, self.encoding, self.reformatter)

    def luma(self, step: int) -> np.ndarray:
        """BT.709 luma of every `step`-th pixel either way, (h, w) float32, nominally in [0, 1]."""
        return luma_from_planes(self.planes, self.encoding, step=step)

    @property
    def digest(self) -> int:
        """CRC-32 of all code values."""
        value = 0
        for plane in self.planes:
            value = zlib.crc32(np.ascontiguousarray(plane).data, value)
        return value


def decoded_frames(container: InputContainer, stream: VideoStream, timeline: Timeline) -> Iterator[VideoFrame]:
    """Decode from where a container stands, with corrected timestamps.

    Raises:
        FFmpegError: a packet cannot be read or decoded.
    """
    correction = timeline.correction()
    for packet in container.demux(stream):
        correction.apply(packet)
        yield from packet.decode()
