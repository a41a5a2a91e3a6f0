"""RGB frames to a video file through PyAV, with everything that is not pixels taken over from the source.

Pixel format, bit depth, matrix, range and colour tags follow the source as far as the encoder can; timestamps keep the
source's ticks. Audio, subtitles, attachments, chapters and metadata are copied without re-encoding. Whether the
container can hold them is known before the first frame: audio that cannot be kept is an error, the rest a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import av.error
import numpy as np
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from bsst.errors import OutputError
from bsst.runtime.video.encoder import add_video_stream, choose_encoder, frame_from_rgb
from bsst.runtime.video.log import error_text
from bsst.runtime.video.reader import HWAccelChoice, VideoInfo, file_url, main_video_stream

__all__ = ["CONTAINERS", "VideoWriter"]

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Suffixes that can be written: containers that keep variable frame rates."""

OWN_METADATA = (
    "encoder",
    "duration",
    "bps",
    "number_of_",
    "_statistics",
    "major_brand",
    "minor_",
    "compatible_",
    "rotate",
)
"""Metadata that describes the source file rather than its content, by prefix in lower case."""

COPIED = ("audio", "subtitle", "attachment")


class VideoWriter:
    """Writes one video file. Use as a context manager: leaving it without an error finishes the file.

    Args:
        path: file to write; overwritten.
        container: FFmpeg name of the container, a value of `CONTAINERS`.
        info: what the reader found.
        source: file whose other streams and metadata are copied.
        lossless: FFV1 in Matroska, else the lossless mode of the default encoder.
        crf: constant rate factor of the default encoder; lower is better and larger.
        hwaccel: which encoder.

    Raises:
        OutputError: the file cannot be written, or the container cannot hold the source's audio.
        UsageError: a GPU was demanded and cannot encode this.
    """

    encoder: str
    """What encodes, and why not the GPU where that was asked for."""

    earliest: Fraction
    """Start of the earliest copied packet in seconds where negative (audio priming), else 0. A container that cannot
    start below zero delays all streams by as much."""

    def __init__(
        self,
        path: Path,
        container: str,
        info: VideoInfo,
        *,
        source: Path,
        lossless: bool = False,
        crf: int = 16,
        hwaccel: HWAccelChoice = "none",
    ) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._container_name = container
        self._info = info
        self._target, self.encoder = choose_encoder(container, info, lossless=lossless, crf=crf, hwaccel=hwaccel)
        if self._target.encoding.bits < info.encoding.bits:
            self.warnings.append(f"{self._target.codec} stores {self._target.encoding.bits} of the source's "
                                 f"{info.encoding.bits} bits per colour; --lossless to .mkv keeps them")  # fmt: skip
        self._source = av.open(file_url(source), "r", metadata_errors="replace")
        aspect = info.sample_aspect_ratio
        if aspect and aspect != 1 and container in ("matroska", "webm"):  # PyAV cannot set the container's own field
            self._warn(f"pixel aspect ratio {aspect.numerator}:{aspect.denominator} is kept in the video stream only; "
                       f"players that read the container show square pixels, .mp4 keeps it in both")  # fmt: skip
        try:
            self._start()
        except (av.error.FFmpegError, OSError) as error:
            self._source.close()
            raise self._output_error(error) from error
        except BaseException:
            self._source.close()
            raise
        self.earliest = Fraction(0)
        self._copied = self._packets()
        self._next_copied = next(self._copied, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._mux(self._stream.encode(None))
                self._copy_until(None)
            self._container.close()
        except (av.error.FFmpegError, OSError) as failure:
            if error is None:
                raise self._output_error(failure) from failure
        finally:
            self._source.close()

    def write(self, rgb: np.ndarray, *, pts: int, duration: int) -> None:
        """Append one frame.

        Args:
            rgb: (3, H, W) float32; values that the pixel format cannot store are clamped.
            pts: presentation time in ticks of the source's time base, larger than the one before.
            duration: ticks; 0 when unknown.
        """
        frame = frame_from_rgb(rgb, self._target)
        frame.pts, frame.duration, frame.time_base = pts, duration, self._info.time_base
        try:
            self._mux(self._stream.encode(frame))
            self._copy_until(pts * self._info.time_base)
        except (av.error.FFmpegError, OSError) as error:
            raise self._output_error(error) from error

    def _start(self) -> None:
        """Describe all streams and write the header."""
        self._container = av.open(file_url(self.path), "w", format=self._container_name)
        stream = add_video_stream(self._container, self._info, self._target)
        if self._info.display_matrix:
            stream.set_display_matrix(self._info.display_matrix)
        original = main_video_stream(self._source)
        stream.metadata.update(_content_metadata(original.metadata))
        stream.disposition = original.disposition
        self._container.metadata.update(_content_metadata(self._source.metadata))
        if chapters := self._source.chapters():
            self._container.set_chapters(chapters)
        self._stream = stream
        self._copies = {
            other.index: copy
            for other in self._source.streams
            if other.index != original.index and (copy := self._copy_of(other)) is not None
        }
        self._container.start_encoding()

    def _copy_of(self, original: Stream) -> Stream | None:
        """A stream of the output for a stream of the source, or None."""
        codec = original.name or "unknown"
        if original.type == "data":
            made_anew = "timecode" in original.metadata or (codec == "bin_data" and self._source.chapters())
            if not made_anew:  # muxers write timecode and chapter tracks themselves, and no other data
                self._warn(f"data stream {original.index} ({codec}) is not kept")
            return None
        if original.type not in COPIED or (original.type == "attachment" and self._container_name != "matroska"):
            self._warn(f"{original.type} stream {original.index} ({codec}) is not kept")
            return None
        try:
            copy = self._container.add_stream_from_template(original)
        except (ValueError, av.error.FFmpegError) as error:
            if original.type == "audio":
                raise OutputError(
                    f"expected a container that holds {codec} audio, {self._container_name} does not ({error}); "
                    f"choose an output name that ends in .mkv"
                ) from error
            self._warn(f"{original.type} stream {original.index} ({codec}) is not kept, {self._container_name} "
                       f"cannot hold it")  # fmt: skip
            return None
        copy.metadata.update(_content_metadata(original.metadata))
        copy.disposition = original.disposition
        return copy

    def _warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)

    def _packets(self) -> Iterator[Packet[Any]]:
        """Packets of the copied streams in file order."""
        streams = [stream for stream in self._source.streams if stream.index in self._copies]
        if streams:
            yield from (packet for packet in self._source.demux(streams) if packet.size)

    def _copy_until(self, seconds: Fraction | None) -> None:
        """Mux the copied packets that begin before a time, all of them for None."""
        while (packet := self._next_copied) is not None:
            time = packet.dts if packet.dts is not None else packet.pts
            if seconds is not None and time is not None and time * packet.time_base > seconds:
                return
            if time is not None:
                self.earliest = min(self.earliest, time * packet.time_base)
            packet.stream = self._copies[packet.stream.index]
            self._container.mux(packet)
            self._next_copied = next(self._copied, None)

    def _mux(self, packets: list[Packet[VideoStream]]) -> None:
        for packet in packets:
            self._container.mux(packet)

    def _output_error(self, error: Exception) -> OutputError:
        return OutputError(
            f"expected to write a video into {self.path.parent}, FFmpeg could not: {error_text(error)}; check free "
            f"space and permissions, or choose an output name that ends in .mkv"
        )


def _content_metadata(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if not key.lower().startswith(OWN_METADATA)}
