"""Video through standard input and output: YUV4MPEG2, NUT and Matroska, from and to any program of the field.

A pipe is read once, so nothing is known of its end, and nothing of it can be looked up again. YUV4MPEG2 has one frame
rate and no colour tags; NUT keeps times, raw samples of any depth and no tags either; Matroska with FFV1 keeps both.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame

from bsst.errors import InputError, OutputError, UsageError
from bsst.runtime.video.colour import matrix_from_tag
from bsst.runtime.video.encoder import (
    LEFT,
    LIMITED,
    RGB_TAG,
    EncoderSettings,
    add_video_stream,
    frame_from_rgb,
    software_settings,
)
from bsst.runtime.video.facts import VideoInfo, stated
from bsst.runtime.video.frame import plane_format
from bsst.runtime.video.log import description, error_text
from bsst.runtime.video.muxed import Muxed
from bsst.runtime.video.reader import HWAccelChoice, VideoReader
from bsst.runtime.video.scan import Scan
from bsst.runtime.video.source import main_video_stream, not_a_video, open_source
from bsst.runtime.video.timeline import Timeline

__all__ = ["PIPE", "PIPE_FORMATS", "PipeFormat", "PipeReader", "PipeWriter", "standard_output"]

PIPE = Path("-")
PipeFormat = Literal["y4m", "nut", "mkv"]
PIPE_FORMATS: dict[PipeFormat, str] = {"y4m": "yuv4mpegpipe", "nut": "nut", "mkv": "matroska"}
"""Name -> FFmpeg's name."""
Y4M = ((1, 1), (1, 2), (2, 2))
"""Subsamplings that YUV4MPEG2 stores in every depth."""
FRAME = b"FRAME\n"


class PipeReader(VideoReader):
    """Frames from standard input. Use as a context manager, iterate once.

    Args:
        file: to read in its place.

    Raises:
        InputError: no video, or one that ends within a frame.
        UsageError: standard input is a terminal.
    """

    def __init__(self, file: BinaryIO | None = None) -> None:
        if file is None and sys.stdin.isatty():
            raise UsageError("expected a video piped in, got a terminal; run: ffmpeg -i VIDEO -f nut - | bsst run -")
        self._file = _Counted(file or sys.stdin.buffer)
        super().__init__(Path("standard input"))

    @property
    def format(self) -> PipeFormat:
        """What comes in, or what keeps most of it."""
        name = self._container.format.name
        return next((key for key, value in PIPE_FORMATS.items() if value in name.split(",")), "nut")

    def accelerate(self, hwaccel: HWAccelChoice) -> None:
        """Software decodes.

        Raises:
            UsageError: `hwaccel` is "cuda".
        """
        if hwaccel == "cuda":
            raise UsageError("expected a file for --hwaccel cuda, got a pipe, which is read once; let it be auto")

    def _look(self) -> Scan:
        try:
            self._container: InputContainer = open_source(self._file)
        except (av.error.FFmpegError, OSError) as error:
            raise not_a_video(self.path, error) from error
        stream = main_video_stream(self._container)
        said = stated(description(self._container), stream)
        warnings = (said.cropping,) if said.cropping else ()
        return Scan(stream=stream.index, frames=0, timeline=Timeline(), stated=said, warnings=warnings)

    def _start(self) -> None:
        self._stream = next(s for s in self._container.streams.video if s.index == self.scan.stream)
        self._stream.thread_type = "AUTO"

    def _decoded(self) -> Generator[VideoFrame, None, None]:
        count = size = 0
        for frame in super()._decoded():
            size = size or sum(plane.width * plane.height for plane in frame.planes) * (self.info_bits(frame) // 8)
            count += 1
            yield frame
        if self.format == "y4m" and self._file.broken_off(size + len(FRAME)):  # FFmpeg takes that for the end
            raise InputError(
                f"expected whole frames from {self.path}, it broke off within frame {count}; look at what the program "
                f"before said"
            )

    @staticmethod
    def info_bits(frame: VideoFrame) -> int:
        """Bits that a sample takes in memory."""
        return 8 if frame.format.components[0].bits == 8 else 16


class PipeWriter(Muxed):
    """Writes video to a pipe, exactly as restored. Use as a context manager.

    Args:
        file: takes bytes.
        name: what to write.
        info: of the source.
        origin: what is subtracted from all times, in ticks.

    Raises:
        OutputError: nobody reads it any more.
    """

    def __init__(self, file: BinaryIO, name: PipeFormat, info: VideoInfo, *, origin: int = 0) -> None:
        self._origin = origin
        self.settings = _settings(name, info)
        self.encoder = f"{name} with {self.settings.codec}"
        self.warnings = [self.settings.lost] if self.settings.lost else []
        self._name, self._info, self._count, self._moved, self._first = name, info, 0, 0, 0
        if name == "y4m":
            info = dataclasses.replace(info, time_base=1 / info.rate)
        located = name == "y4m" and info.tags.chroma_location == LEFT
        with self._errors():
            self._container = av.open(cast(Any, _Sink(file, located=located)), "w", format=PIPE_FORMATS[name],
                                      options={"strict": "-1"})  # fmt: skip
            self._stream = add_video_stream(self._container, info, self.settings)

    def write(self, rgb: np.ndarray, *, pts: int, duration: int) -> None:
        """Append one frame; see `VideoWriter.write`."""
        frame = frame_from_rgb(rgb, self.settings)
        pts -= self._origin
        frame.pts, frame.duration, frame.time_base = pts, duration, self._info.time_base
        if self._name == "y4m":
            self._first = pts if self._count == 0 else self._first
            shown = (pts - self._first) * self._info.time_base * self._info.rate
            self._moved += abs(shown - self._count) > Fraction(1, 2)
            frame.pts, frame.duration, frame.time_base = self._count, 1, 1 / self._info.rate
        self._count += 1
        with self._errors():
            self._encode(frame)

    def _finish(self) -> None:
        if self._moved:
            self.warnings.append(f"{self._moved} frames are not shown when they were, y4m has one frame rate; "
                                 f"--format nut keeps times")  # fmt: skip

    def _error(self, error: Exception) -> OutputError:
        if isinstance(error, BrokenPipeError):
            return OutputError(
                f"expected a program that reads standard output to the end, it stopped after {self._count} frames; "
                f"look at what it said"
            )
        return OutputError(
            f"expected to write {self._name} to standard output, could not: {error_text(error)}; look at what reads it"
        )


@contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """Standard output for video alone: whatever else prints there, in any language, goes to standard error.

    Raises:
        UsageError: it is a terminal.
    """
    if os.isatty(1):
        raise UsageError("expected a program or a file behind -o -, got a terminal; run: bsst run ... -o - | ffplay -")
    sys.stdout.flush()
    before = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(before), "wb", buffering=0) as file:
            yield file
    finally:
        sys.stdout.flush()
        os.dup2(before, 1)
        os.close(before)


def _settings(name: PipeFormat, info: VideoInfo) -> EncoderSettings:
    if name == "mkv":
        return software_settings("matroska", info, lossless=True, crf=0)
    encoding, tags, lost = info.encoding, info.tags, ""
    if name == "y4m":
        if encoding.matrix == "rgb":
            matrix = matrix_from_tag(2, lines=info.height)
            encoding = dataclasses.replace(encoding, matrix=matrix, full_range=False)
            tags = dataclasses.replace(tags, matrix=RGB_TAG[matrix], range=LIMITED)
        if encoding.subsampling not in Y4M:
            encoding = dataclasses.replace(encoding, subsampling=(1, 1))
    kept = ("transfer", "primaries", "matrix") if encoding.matrix != "rgb" else ("transfer", "primaries")
    if any(getattr(tags, tag) != 2 for tag in kept) or (name == "nut" and encoding.full_range and tags.range):
        lost = f"{name} has no colour tags: tell them to the next program, or pass --format mkv"
    return EncoderSettings(
        codec="rawvideo",
        pixel_format=plane_format(encoding),
        encoding=encoding,
        tags=tags,
        options={},
        lossless=True,
        lost=lost,
    )


class _Counted:
    """Reads, and remembers how much and where the first frame began."""

    def __init__(self, file: BinaryIO) -> None:
        self._read = getattr(file, "read1", file.read)
        self._head, self._total = b"", 0

    def read(self, size: int) -> bytes:
        data: bytes = self._read(size)
        self._total += len(data)
        if len(self._head) < 4096:
            self._head += data[:4096]
        return data

    def broken_off(self, size: int) -> bool:
        """Whether what follows the header is not a whole number of items."""
        return bool(size) and (self._total - (self._head.find(b"\n") + 1)) % size != 0


class _Sink:
    """Writes all of it. A y4m header says where chroma lies, which PyAV before 19 cannot tell the muxer."""

    def __init__(self, file: BinaryIO, *, located: bool) -> None:
        self._file, self._located = file, located

    def write(self, data: bytes) -> int:
        count = len(data)
        if self._located:
            data, self._located = bytes(data).replace(b" C420jpeg ", b" C420mpeg2 ", 1), False
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        return count
