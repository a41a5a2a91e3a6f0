"""Video file to RGB frames with their timestamps, through PyAV.

The decoder is flushed at the end, so frames held back for reordering are not lost. Every frame gets a timestamp: the
file's own, or where it has none or goes back, the next possible one. Before the first frame the file is scanned once
without decoding, so that a truncated file is refused before hours of work and the number of frames is known.

A GPU decodes through FFmpeg's CUDA hwaccel (NVDEC), in a CUDA context of its own; PyAV copies the frames to the host.
The software decoder always reads the first frame, which says what the file holds, and the GPU goes on only if it reads
the same frame. Source: PyAV documentation, `av.codec.hwaccel.HWAccel`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, cast

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from bsst.errors import InputError, OutOfMemoryError, UsageError, VerificationError
from bsst.runtime.metrics import psnr, to_uint8
from bsst.runtime.video.colour import Encoding, luma_from_planes, rgb_from_planes
from bsst.runtime.video.facts import Tags, VideoInfo, describe, lost_with_frame, side_data
from bsst.runtime.video.frame import frame_to_planes, frame_to_rgb, is_interleaved
from bsst.runtime.video.log import ErrorLog, error_text, unlogged
from bsst.runtime.video.scan import Scan
from bsst.runtime.video.scan import scan as scan_file
from bsst.runtime.video.source import file_url, main_video_stream, not_a_video, open_source, quoted, require_video_file

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

SHORTEST = Fraction(1, 1000)
"""Seconds of a tick of Matroska."""
SAME_PICTURE = 40
"""PSNR in dB of one frame from two decoders; exact for H.264, HEVC, VP9 and AV1, whose arithmetic is normative."""


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


class VideoReader:
    """Iterates over the frames of the main video stream of a file. Use as a context manager, iterate once.

    Args:
        path: any file FFmpeg reads.
        scan: what an earlier reader of the same file found; saves reading it to its end.

    Raises:
        InputError: missing, unreadable, truncated, or without decodable video.
    """

    gpu_problem: str = ""
    """Why the GPU does not decode, though asked."""

    def __init__(self, path: Path, *, scan: Scan | None = None) -> None:
        self.path = path
        self.warnings: list[str] = []
        self.scan = scan or self._look()
        self.warnings += self.scan.warnings
        self._on_gpu = False
        self._start()
        try:
            self._frames = self._decoded()
            self._first = next(self._frames, None)
            if self._first is None:
                raise InputError(f"expected video in {path}, could not decode a single frame; is the file complete?")
            self.info = replace(
                describe(
                    self._first,
                    self._stream,
                    path,
                    frames=self.scan.frames,
                    timeline=self.scan.timeline,
                    chroma_location=self.scan.stated.chroma_location,
                ),
                span=self.scan.span,
            )
            self._look_for_losses(self._first)
            self._codec = self._stream.codec_context.name
            # AVI has no presentation times, and what FFmpeg makes up for these codecs is in the order of decoding.
            self._unordered = self._container.format.name == "avi" and self._codec in ("h264", "hevc")
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

    def seek(self, pts: int) -> Iterator[Frame]:
        """Read on from a key frame before a time, to the end.

        A container's index may lead elsewhere, and what comes first may lack frames that it refers to: compare `pts`
        and `digest` with those of the whole video. Its frames are `exact`, or the video's are not.

        Raises:
            FFmpegError: the file cannot be read from there.
        """
        self._first = None
        ticks = math.floor(pts * self.info.time_base / Fraction(self._stream.time_base or self.info.time_base))
        self._container.seek(ticks, stream=self._stream)
        reformatter = VideoReformatter()
        for picture in self._corrected(self._container, self._stream):
            if picture.pts is not None:
                yield Frame(
                    picture=picture,
                    encoding=self.info.encoding,
                    reformatter=reformatter,
                    pts=picture.pts,
                    duration=picture.duration or 0,
                    exact=True,
                )

    def restart(self) -> None:
        """Go back to the first frame, so that the reader may be iterated again."""
        on_gpu, self._on_gpu = self._on_gpu, False
        self._close()
        self._start()
        self._frames = self._decoded()
        self._first = next(self._frames, None)
        self.accelerate("auto" if on_gpu else "none")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __iter__(self) -> Iterator[Frame]:
        times = _Times(trust_pts=not self._unordered)
        adjusted = corrupt = 0
        last: int | None = None
        frame: VideoFrame | None = self._first
        self._first = None
        reformatter = VideoReformatter()
        while frame is not None:
            if (frame.height, frame.width) != (self.info.height, self.info.width):
                raise InputError(
                    f"expected all frames of {self.path} to be {self.info.height}x{self.info.width} like the first, "
                    f"got {frame.height}x{frame.width} (height x width) at {frame.time or 0:.2f} s; "
                    "split or scale the video first"
                )
            duration = frame.duration or round(1 / (self.info.rate * self.info.time_base))
            pts = times.best(frame.pts, frame.dts)
            exact = pts is not None and not times.by_decoder and not self.scan.timeline.steps
            expected = 0 if last is None else last + duration
            if pts is None or (last is not None and pts <= last):
                adjusted += not times.by_decoder
                pts = expected if pts is None or times.by_decoder else cast(int, last) + _step(duration, self.info)
                exact = False
            corrupt += frame.is_corrupt
            self._look_for_losses(frame)
            yield Frame(
                picture=frame,
                encoding=self.info.encoding,
                reformatter=reformatter,
                pts=pts,
                duration=frame.duration or 0,
                exact=exact and pts == frame.pts,
            )
            last = pts
            frame = next(self._frames, None)
        if adjusted:
            self._warn(f"{adjusted} frames had no usable timestamp and got the next possible one")
        if corrupt:
            self._warn(f"{corrupt} frames are damaged in the source")

    def _close(self) -> None:
        """Free the decoder, with everything that holds it."""
        with unlogged():
            self._frames.close()
            self._first = None
            self.__dict__.pop("_stream", None)
            if (container := self.__dict__.pop("_container", None)) is not None:
                container.close()
            del container

    def _warn(self, *messages: str) -> None:
        self.warnings += [message for message in messages if message not in self.warnings]

    def _look_for_losses(self, frame: VideoFrame) -> None:
        self._warn(*lost_with_frame(frame, side_data(frame)))

    def _look(self) -> Scan:
        """What there is, before anything is decoded."""
        require_video_file(self.path)
        return scan_file(self.path)

    def _start(self) -> None:
        try:
            self._container = open_source(self.path)
        except (av.error.FFmpegError, OSError) as error:
            raise not_a_video(self.path, error) from error
        self._stream = next(s for s in self._container.streams.video if s.index == self.scan.stream)
        self._stream.thread_type = "AUTO"

    def _decoded(self) -> Generator[VideoFrame, None, None]:
        """Frames in presentation order; undecodable packets are skipped until the first frame, then refused."""
        count = 0
        correction = self.scan.timeline.correction()
        for packet in self._container.demux(self._stream):
            correction.apply(packet)
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                if count == 0 and packet.size:
                    continue
                raise self._damage(count, error) from error
            for frame in frames:
                count += 1
                yield frame

    def _damage(self, count: int, error: av.error.FFmpegError) -> InputError | OutOfMemoryError:
        """What a decoder's failure means."""
        words = error_text(error)
        if isinstance(error, av.error.MemoryError | av.error.BlockingIOError):
            return OutOfMemoryError(
                f"expected memory to decode {self.path}, ran out after frame {count} ({words}); close other programs, "
                f"or scale the video down"
            )
        if count == 0 and "webp" in self._container.format.name:
            return not_a_video(self.path, error)
        return InputError(
            f"expected decodable video in {self.path}, it is damaged after frame {count}: {words}; to restore what is "
            f"left, first repair it with: ffmpeg -i {quoted(self.path)} -c:v ffv1 repaired.mkv"
        )

    def _move_to_gpu(self, first: VideoFrame) -> str:
        """Go on with the GPU if it reads the same first frame -> why not, or ""."""
        with ErrorLog() as log:
            try:
                container = open_on_gpu(self.path)
            except (av.error.FFmpegError, OSError, RuntimeError) as error:
                return log.reason(error)
            stream = next(s for s in container.streams.video if s.index == self.scan.stream)
            frames = self._corrected(container, stream)
            try:
                problem = self._difference(stream, frames, first)
            except av.error.FFmpegError as error:
                problem = log.reason(error)
        if problem:
            container.close()
            return problem
        with unlogged():
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

    def _decoded_on_gpu(self, frames: Iterator[VideoFrame]) -> Generator[VideoFrame, None, None]:
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
        with unlogged():
            self._container.close()
            self._start()
        yield from islice(self._decoded(), count, None)

    def _corrected(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        correction = self.scan.timeline.correction()
        for packet in container.demux(stream):
            correction.apply(packet)
            yield from packet.decode()


def _step(duration: int, info: VideoInfo) -> int:
    """Ticks from a frame to the next one where its own time says none: what Matroska can tell apart."""
    return max(1, min(round(SHORTEST / info.time_base), duration // 2))


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


def open_on_gpu(path: Path) -> InputContainer:
    """Open a file whose video is decoded through CUDA; a codec without a CUDA path is decoded in software all the same.

    Raises:
        FFmpegError: no driver, no GPU, or no memory.
        RuntimeError: no stream of the file has a codec with a CUDA path.
    """
    return open_source(path, hwaccel=HWAccel("cuda", allow_software_fallback=False))


def packet_times(path: Path) -> tuple[list[int], Fraction]:
    """Presentation times of a finished video file, ascending, and the seconds per tick; nothing is decoded.

    Raises:
        VerificationError: the file cannot be read back.
    """
    try:
        with av.open(file_url(path), "r") as container:
            stream = main_video_stream(container)
            times = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
            return times, Fraction(stream.time_base or 1)
    except (av.error.FFmpegError, OSError, InputError) as error:
        raise VerificationError(
            f"expected a readable result in {path}, got {error_text(error)}; check the disk"
        ) from error
