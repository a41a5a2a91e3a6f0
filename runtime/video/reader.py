"""Video file to RGB frames with their timestamps, through PyAV.

The decoder is flushed at the end, so frames held back for reordering are not lost. Every frame gets a timestamp: the
file's own, or where it has none or repeats one, the next possible tick. Before the first frame the file is scanned once
without decoding, so that a truncated file is refused before hours of work and the number of frames is known.

A GPU decodes through FFmpeg's CUDA hwaccel (NVDEC), in a CUDA context of its own; PyAV copies the frames to the host.
The software decoder always reads the first frame, which says what the file holds, and the GPU goes on only if it reads
the same frame. Source: PyAV documentation, `av.codec.hwaccel.HWAccel`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, cast

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from bsst.errors import InputError, UsageError, VerificationError
from bsst.files import what_is_at
from bsst.runtime.metrics import psnr, to_uint8
from bsst.runtime.video.colour import Encoding, matrix_from_tag
from bsst.runtime.video.frame import FULL_RANGE, SUBSAMPLINGS, frame_to_rgb, is_interleaved
from bsst.runtime.video.log import ErrorLog, error_text

__all__ = [
    "Frame",
    "HWAccelChoice",
    "Tags",
    "VideoInfo",
    "VideoReader",
    "file_url",
    "main_video_stream",
    "packet_times",
]

HWAccelChoice = Literal["auto", "none", "cuda"]
"""Where video is decoded and encoded: on the GPU if that works, in software, or on the GPU or not at all."""

MOST_FRAMES_PER_SECOND = 1000

MISSING_SECONDS = 0.5
"""A file that ends this much before its stated duration is truncated."""
SAME_PICTURE = 40
"""PSNR in dB of one frame from two decoders; exact for H.264, HEVC, VP9 and AV1, whose arithmetic is normative."""


@dataclass(frozen=True, kw_only=True)
class Tags:
    """H.273 colour tags as FFmpeg numbers them; 2 (range: 0) means untagged."""

    matrix: int
    range: int
    primaries: int
    transfer: int


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a writer must know to keep everything that is not pixels."""

    height: int
    width: int
    encoding: Encoding
    """How the decoded planes mean colour, resolved."""
    tags: Tags
    """What the file says about colour, unresolved."""
    time_base: Fraction
    """Seconds per tick of the timestamps."""
    rate: Fraction
    """Average frames per second; for rate control only, never for timing."""
    frames: int
    """Frames that the file announces; the decoded number may differ for broken files."""
    sample_aspect_ratio: Fraction | None
    display_matrix: tuple[int, ...] | None
    """Nine integers: rotation and flips that players apply."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One decoded frame."""

    rgb: np.ndarray
    """(3, H, W) float32 RGB, nominally in [0, 1]."""
    pts: int
    """Presentation time in ticks of `VideoInfo.time_base`, strictly increasing."""
    duration: int
    """Ticks; 0 when unknown."""


class VideoReader:
    """Iterates over the frames of the main video stream of a file. Use as a context manager, iterate once.

    Args:
        path: any file FFmpeg reads.

    Raises:
        InputError: missing, unreadable, truncated, or without decodable video.
    """

    gpu_problem: str = ""
    """Why the GPU does not decode, though asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        if (found := what_is_at(path)) != "a file":
            raise InputError(f"expected a video file, found {found} at {path}; check the name")
        announced = self._scan()
        self._on_gpu = False
        self._start()
        try:
            self._frames = self._decoded()
            self._first = next(self._frames, None)
            if self._first is None:
                raise InputError(f"expected video in {path}, could not decode a single frame; is the file complete?")
            self.info = self._info(self._first, announced)
            self._codec = self._stream.codec_context.name
        except BaseException:
            self._container.close()
            raise

    def accelerate(self, hwaccel: HWAccelChoice) -> None:
        """Choose where to decode, software being the default; before the first frame is taken.

        Raises:
            UsageError: `hwaccel` is "cuda" and the GPU cannot decode this file.
        """
        if hwaccel == "none" or self._first is None:
            return
        self.gpu_problem = self._move_to_gpu(self._first)
        if self.gpu_problem and hwaccel == "cuda":
            raise UsageError(
                f"expected NVDEC to decode {self.path}, it does not: {self.gpu_problem}; let --hwaccel be auto"
            )

    @property
    def decoder(self) -> str:
        """What decodes, and why not the GPU where that was asked for."""
        if self._on_gpu:
            return f"{self._codec} on NVDEC"
        return self._codec + (f" in software (not NVDEC: {self.gpu_problem})" if self.gpu_problem else "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        last: int | None = None
        adjusted = corrupt = 0
        frame: VideoFrame | None = self._first
        self._first = None
        reformatter = VideoReformatter()
        while frame is not None:
            if (frame.height, frame.width) != (self.info.height, self.info.width):
                raise InputError(
                    f"expected all frames of {self.path} to be {self.info.width}x{self.info.height} like the first, "
                    f"got {frame.width}x{frame.height} at {frame.time or 0:.2f} s; split or scale the video first"
                )
            duration = frame.duration or round(1 / (self.info.rate * self.info.time_base))
            pts = frame.pts if frame.pts is not None else frame.dts
            expected = 0 if last is None else last + duration
            if pts is None or (last is not None and pts <= last):
                adjusted += 1
                pts = expected if pts is None else cast(int, last) + 1
            corrupt += frame.is_corrupt
            rgb = frame_to_rgb(frame, self.info.encoding, reformatter)
            yield Frame(rgb=rgb, pts=pts, duration=frame.duration or 0)
            last = pts
            frame = next(self._frames, None)
        if adjusted:
            self.warnings.append(f"{adjusted} frames had no usable timestamp and got the next possible one")
        if corrupt:
            self.warnings.append(f"{corrupt} frames are damaged in the source")

    def _open(self) -> InputContainer:
        try:
            return av.open(file_url(self.path), "r", metadata_errors="replace")
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(
                f"expected a video in {self.path}, FFmpeg cannot open it: {error_text(error)}; is the file complete?"
            ) from error

    def _scan(self) -> int:
        """Read all packets without decoding -> number of video packets."""
        packets, end = 0, 0.0
        with self._open() as container:
            stream = main_video_stream(container)
            try:
                for packet in container.demux():
                    if packet.size and packet.pts is not None and packet.time_base:
                        end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                    if packet.size and packet.stream.index == stream.index and not packet.is_discard:
                        packets += 1
            except av.error.FFmpegError as error:
                raise InputError(
                    f"expected a complete video in {self.path}, reading stopped after {end:.2f} s: "
                    f"{error_text(error)}; to restore what is there, first copy it with: "
                    f"ffmpeg -i '{self.path}' -c copy repaired.mkv"
                ) from error
            if container.duration is not None:
                # Some containers count from zero, some from the first frame: the smaller reading is safe.
                stated = (min(container.start_time or 0, 0) + container.duration) / av.time_base
                if packets and end + MISSING_SECONDS < stated:
                    raise InputError(
                        f"expected {stated:.2f} s of video in {self.path}, found {end:.2f} s, so it is truncated; "
                        f"to restore what is there, first copy it with: ffmpeg -i '{self.path}' -c copy repaired.mkv"
                    )
        return packets

    def _start(self) -> None:
        self._container = self._open()
        try:
            self._stream = main_video_stream(self._container)
        except BaseException:
            self._container.close()
            raise
        self._stream.thread_type = "AUTO"

    def _decoded(self) -> Iterator[VideoFrame]:
        """Frames in presentation order; undecodable packets are skipped until the first frame, then refused."""
        count = 0
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                if count == 0 and packet.size:
                    continue
                raise InputError(
                    f"expected decodable video in {self.path}, it is damaged after frame {count}: {error_text(error)}; "
                    f"to restore what is left, first repair it with: ffmpeg -i '{self.path}' -c:v ffv1 repaired.mkv"
                ) from error
            for frame in frames:
                count += 1
                yield frame

    def _move_to_gpu(self, first: VideoFrame) -> str:
        """Go on with the GPU if it reads the same first frame -> why not, or ""."""
        with ErrorLog() as log:
            try:
                container = open_on_gpu(self.path)
            except (av.error.FFmpegError, OSError, RuntimeError) as error:
                return log.reason(error)
            stream = main_video_stream(container)
            frames = (frame for packet in container.demux(stream) for frame in packet.decode())
            try:
                problem = self._difference(stream, frames, first)
            except av.error.FFmpegError as error:
                problem = log.reason(error)
        if problem:
            container.close()
            return problem
        self._container.close()
        self._container, self._stream = container, stream
        self._frames = self._decoded_on_gpu(frames)
        self._on_gpu = True
        return ""

    def _difference(self, stream: VideoStream, frames: Iterator[VideoFrame], first: VideoFrame) -> str:
        """Decode one frame on the GPU -> how it differs from the software decoder's, or ""."""
        if not stream.codec_context.is_hwaccel:  # PyAV goes on in software without a word
            return f"FFmpeg's decoder {stream.codec_context.name} has no CUDA path"
        frame = next(frames, None)
        if frame is None:
            return "it gives no frame"
        if not is_interleaved(frame, self.info.encoding):
            return f"it gives {frame.format.name} for {first.format.name}"
        expected, got = ((f.width, f.height, f.pts) for f in (first, frame))
        if expected != got:
            return f"its first frame has (width, height, pts) {got}, the software decoder's {expected}"
        reformatter = VideoReformatter()
        agreement = psnr(*(to_uint8(frame_to_rgb(f, self.info.encoding, reformatter)) for f in (first, frame)))
        if agreement < SAME_PICTURE:
            return f"its first frame agrees with the software decoder's to {agreement:.1f} dB only"
        return ""

    def _decoded_on_gpu(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        """The frames after the first; where the GPU fails, the software decoder goes on."""
        count = 1
        try:
            for frame in frames:
                yield frame
                count += 1
            return
        except av.error.FFmpegError as error:
            self.gpu_problem = f"it failed after {count} frames: {error_text(error)}"
        self.warnings.append(f"NVDEC did not decode all of the video, software did the rest: {self.gpu_problem}")
        self._on_gpu = False
        self._container.close()
        self._start()
        yield from islice(self._decoded(), count, None)

    def _info(self, frame: VideoFrame, announced: int) -> VideoInfo:
        stream = self._stream
        layout = frame.format
        is_rgb = layout.is_rgb or layout.has_palette
        is_grey = len(layout.components) < 3 and not is_rgb
        subsampling = (2, 2) if is_grey else (8 // layout.chroma_height(8), 8 // layout.chroma_width(8))
        encoding = Encoding(
            matrix="rgb" if is_rgb else matrix_from_tag(int(frame.colorspace), lines=frame.height),
            full_range=int(frame.color_range) == FULL_RANGE or layout.name.startswith("yuvj"),
            bits=min(16, max(8, *(component.bits for component in layout.components))),
            subsampling=(1, 1) if is_rgb else subsampling,
        )
        if encoding.subsampling not in SUBSAMPLINGS or layout.is_bayer:
            raise InputError(f"expected an ordinary pixel format in {self.path}, got {layout.name}; convert it first")
        if frame.interlaced_frame:
            self.warnings.append("the video is interlaced; deinterlace it first for a good result")
        if any(component.is_alpha for component in layout.components):
            self.warnings.append("the video has transparency, which is lost")
        matrix = cast(SideData | None, frame.side_data.get("DISPLAYMATRIX"))
        return VideoInfo(
            height=frame.height,
            width=frame.width,
            encoding=encoding,
            tags=Tags(
                matrix=int(frame.colorspace),
                range=FULL_RANGE if encoding.full_range and not is_rgb else int(frame.color_range),
                primaries=int(frame.color_primaries),
                transfer=int(frame.color_trc),
            ),
            time_base=frame.time_base or stream.time_base or Fraction(1, 90000),
            rate=_rate(stream),
            frames=announced,
            sample_aspect_ratio=stream.sample_aspect_ratio or None,
            display_matrix=None if matrix is None else tuple(np.frombuffer(memoryview(matrix), np.int32).tolist()),
        )


def _rate(stream: VideoStream) -> Fraction:
    """Average frames per second; for raw DV FFmpeg gives the ticks per second instead, and muxers refuse those."""
    average = stream.average_rate
    if average and average <= MOST_FRAMES_PER_SECOND:
        return average
    return stream.guessed_rate or Fraction(25)


def open_on_gpu(path: Path) -> InputContainer:
    """Open a file whose video is decoded through CUDA; a codec without a CUDA path is decoded in software all the same.

    Raises:
        FFmpegError: no driver, no GPU, or no memory.
        RuntimeError: no stream of the file has a codec with a CUDA path.
    """
    accelerator = HWAccel("cuda", allow_software_fallback=False)
    return av.open(file_url(path), "r", metadata_errors="replace", hwaccel=accelerator)


def main_video_stream(container: InputContainer) -> VideoStream:
    """The first video stream that is not a cover picture.

    Raises:
        InputError: there is none.
    """
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic and stream.codec_context is not None:
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise InputError(f"expected a video stream in {container.name}, found {kinds}; give a video file")


def file_url(path: Path) -> str:
    """What FFmpeg is told to open: absolute, since it takes the start of `12:30.mp4` for a protocol."""
    return os.path.abspath(path)


def packet_times(path: Path) -> tuple[list[int], Fraction]:
    """Presentation times of a finished video file, ascending, and the seconds per tick; nothing is decoded.

    Raises:
        VerificationError: the file cannot be read back.
    """
    try:
        with av.open(file_url(path), "r") as container:
            stream = main_video_stream(container)
            times = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
            return times, stream.time_base or Fraction(1)
    except (av.error.FFmpegError, OSError, InputError) as error:
        raise VerificationError(
            f"expected a readable result in {path}, got {error_text(error)}; check the disk"
        ) from error
