"""Encoded segments on disk: the job's codec in NUT, which keeps ticks of any size and checks what it reads.

Every segment has an encoder of its own, so it begins with a key frame and nothing refers beyond its edges. Times are
stored from the segment's length on, since encoders count decoding times back from the first frame and NUT holds nothing
below zero.
"""

from __future__ import annotations

import os
import secrets
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.packet import Packet

from bsst.errors import OutOfMemoryError, OutputError, VerificationError
from bsst.runtime.jobs.segment import Segment
from bsst.runtime.jobs.survey import Survey
from bsst.runtime.jobs.work import file_digest
from bsst.runtime.video.encoder import EncoderSettings, add_video_stream, frame_from_rgb, write_error
from bsst.runtime.video.facts import VideoInfo
from bsst.runtime.video.log import error_text
from bsst.runtime.video.memory import ran_out
from bsst.runtime.video.muxed import Muxed
from bsst.runtime.video.source import file_url

__all__ = ["SegmentWriter", "joined_packets"]


class SegmentWriter(Muxed):
    """Encodes the kept frames of one segment. Leaving it without an error gives the file its name, synced.

    Args:
        path: final name.
        segment: its frames come in order.
        survey: their times.
        info: of the source.
        settings: how frames are encoded.

    Raises:
        OutputError: the file cannot be written.
    """

    sha256: str
    size: int

    def __init__(
        self, path: Path, segment: Segment, survey: Survey, info: VideoInfo, settings: EncoderSettings
    ) -> None:
        self._path = path
        # A worker that was given up, but lives on, must not write into the file of the one that took over.
        self._partial = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
        self._info, self._settings = info, settings
        self._times = survey.times[segment.keep_from : segment.keep_to]
        self._durations = survey.durations[segment.keep_from : segment.keep_to]
        self._count = 0
        with self._errors():
            self._container = av.open(file_url(self._partial), "w", format="nut")
            # The tag is for the file that segments are joined into; NUT knows no hvc1.
            self._stream = add_video_stream(self._container, info, replace(settings, codec_tag=""))

    def write(self, rgb: np.ndarray) -> None:
        """Append one frame (3, H, W) float32 RGB."""
        frame = frame_from_rgb(rgb, self._settings)
        frame.pts = self._times[self._count] + _shift(self._times)
        frame.duration = self._durations[self._count]
        frame.time_base = self._info.time_base
        self._count += 1
        with self._errors():
            self._encode(frame)

    def _finish(self) -> None:
        """Read the times back, make the file durable and give it its name."""
        with av.open(file_url(self._partial), "r") as container:
            times = sorted(_packet_times(container, self._info, _shift(self._times)))
        if times != list(self._times):
            raise VerificationError(f"expected {len(self._times)} frames in {self._path.name}, read back {len(times)} "
                                    f"or at other times; check the disk")  # fmt: skip
        self.size, self.sha256 = self._partial.stat().st_size, file_digest(self._partial)
        with self._partial.open("r+b") as file:
            os.fsync(file.fileno())
        self._partial.replace(self._path)

    def _release(self) -> None:
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)

    def _error(self, error: Exception) -> OutputError | OutOfMemoryError:
        return write_error(error, self._path.parent, self._info)


def joined_packets(
    paths: list[Path], segments: list[Segment], survey: Survey, info: VideoInfo
) -> Iterator[Packet[Any]]:
    """Packets of finished segments in decoding order, with the source's times and decoding times that ascend.

    Frame i in decoding order is decoded when frame i - d is shown, d being the furthest that any frame moved.

    Raises:
        VerificationError: a segment cannot be read.
    """
    times = array("q")
    for segment in segments:
        times.extend(survey.times[segment.keep_from : segment.keep_to])
    shown = {time: rank for rank, time in enumerate(times)}
    delay = max(
        0, max(position - shown[time] for position, (time, _) in enumerate(_all(paths, segments, survey, info)))
    )
    step = (times[delay] - times[0]) if len(times) > delay else (times[-1] - times[0] + delay)
    durations = array("q")
    for segment in segments:
        durations.extend(survey.durations[segment.keep_from : segment.keep_to])
    for position, (time, packet) in enumerate(_all(paths, segments, survey, info)):
        packet.time_base = info.time_base
        packet.pts = time
        packet.dts = times[position - delay] if position >= delay else times[0] - step + _lead(times, position, delay)
        packet.duration = durations[shown[time]]
        yield packet


def _lead(times: array[int], position: int, delay: int) -> int:
    """Ticks from the first to a later one of the decoding times before the first frame is shown."""
    return times[position] - times[0] if len(times) > delay else position


def _all(
    paths: list[Path], segments: list[Segment], survey: Survey, info: VideoInfo
) -> Iterator[tuple[int, Packet[Any]]]:
    for path, segment in zip(paths, segments, strict=True):
        shift = _shift(survey.times[segment.keep_from : segment.keep_to])
        try:
            with av.open(file_url(path), "r") as container:
                for packet in container.demux(video=0):
                    if packet.size and packet.pts is not None:
                        yield _ticks(packet, info) - shift, packet
        except (av.error.FFmpegError, OSError) as error:
            if ran_out(error):
                raise
            raise VerificationError(
                f"expected a readable segment in {path}, got {error_text(error)}; check the disk, and run the same "
                f"command again, which restores it anew"
            ) from error


def _packet_times(container: Any, info: VideoInfo, shift: int) -> Iterator[int]:
    for packet in container.demux(video=0):
        if packet.size and packet.pts is not None:
            yield _ticks(packet, info) - shift


def _ticks(packet: Packet[Any], info: VideoInfo) -> int:
    """Presentation time in ticks of the source."""
    return round(packet.pts * packet.time_base / info.time_base) if packet.pts is not None else 0


def _shift(times: array[int]) -> int:
    """What is added to the times of a segment in its file."""
    return times[-1] - 2 * times[0] + 1
