"""Video file to RGB frames with their timestamps, through PyAV.

The decoder is flushed at the end, so frames held back for reordering are not lost. Every frame gets a timestamp: the
file's own, or where it has none or repeats one, the next possible tick. Before the first frame the file is scanned once
without decoding, so that a truncated file is refused before hours of work and the number of frames is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream

from bsst.errors import InputError, VerificationError
from bsst.runtime.colour import Encoding, matrix_from_tag, rgb_from_planes

__all__ = ["Frame", "Tags", "VideoInfo", "VideoReader", "main_video_stream", "packet_times", "plane_format"]

SUBSAMPLINGS = {(1, 1): "444", (2, 1): "440", (1, 2): "422", (2, 2): "420", (1, 4): "411", (4, 4): "410"}
FULL_RANGE = int(ColorRange.JPEG)
MISSING_SECONDS = 0.5
"""A file that ends this much before its stated duration is truncated."""


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

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        if not path.is_file():
            raise InputError(f"expected a video file, found none at {path}; check the name")
        announced = self._scan()
        self._container = self._open()
        try:
            self._stream = main_video_stream(self._container)
            self._stream.thread_type = "AUTO"
            self._frames = self._decoded()
            self._first = next(self._frames, None)
            if self._first is None:
                raise InputError(f"expected video in {path}, could not decode a single frame; is the file complete?")
            self._reformatter = VideoReformatter()
            self.info = self._info(self._first, announced)
        except BaseException:
            self._container.close()
            raise

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
            yield Frame(rgb=self._rgb(frame), pts=pts, duration=frame.duration or 0)
            last = pts
            frame = next(self._frames, None)
        if adjusted:
            self.warnings.append(f"{adjusted} frames had no usable timestamp and got the next possible one")
        if corrupt:
            self.warnings.append(f"{corrupt} frames are damaged in the source")

    def _open(self) -> InputContainer:
        try:
            return av.open(str(self.path), "r", metadata_errors="replace")
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(
                f"expected a video in {self.path}, FFmpeg cannot open it: {_reason(error)}; is the file complete?"
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
                    f"expected a complete video in {self.path}, reading stopped after {end:.2f} s: {_reason(error)}; "
                    f"to restore what is there, first copy it with: ffmpeg -i '{self.path}' -c copy repaired.mkv"
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
                    f"expected decodable video in {self.path}, it is damaged after frame {count}: {_reason(error)}; "
                    f"to restore what is left, first repair it with: ffmpeg -i '{self.path}' -c:v ffv1 repaired.mkv"
                ) from error
            for frame in frames:
                count += 1
                yield frame

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
            rate=stream.average_rate or stream.guessed_rate or Fraction(25),
            frames=announced,
            sample_aspect_ratio=stream.sample_aspect_ratio or None,
            display_matrix=None if matrix is None else tuple(np.frombuffer(memoryview(matrix), np.int32).tolist()),
        )

    def _rgb(self, frame: VideoFrame) -> np.ndarray:
        encoding = self.info.encoding
        name = plane_format(encoding)
        if frame.format.name.replace("yuvj", "yuv").replace("yuva", "yuv") != name:
            # Same matrix and range on both sides: only the layout of the planes changes.
            tags = {"src_color_range": FULL_RANGE, "dst_color_range": FULL_RANGE}
            frame = self._reformatter.reformat(frame, format=name, src_colorspace=5, dst_colorspace=5, **tags)
        first, second, third = (_pixels(frame, index, encoding.dtype) for index in range(3))
        if encoding.matrix == "rgb":  # planes are stored as G, B, R
            first, second, third = third, first, second
        return rgb_from_planes((first, second, third), encoding)


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


def packet_times(path: Path) -> tuple[list[int], Fraction]:
    """Presentation times of a finished video file, ascending, and the seconds per tick; nothing is decoded.

    Raises:
        VerificationError: the file cannot be read back.
    """
    try:
        with av.open(str(path), "r") as container:
            stream = main_video_stream(container)
            times = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
            return times, stream.time_base or Fraction(1)
    except (av.error.FFmpegError, OSError, InputError) as error:
        raise VerificationError(
            f"expected a readable result in {path}, got {_reason(error)}; check the disk"
        ) from error


def plane_format(encoding: Encoding) -> str:
    """FFmpeg name of the planar, native-endian pixel format that stores an encoding exactly."""
    depth = "" if encoding.bits == 8 else f"{encoding.bits}le"
    return f"gbrp{depth}" if encoding.matrix == "rgb" else f"yuv{SUBSAMPLINGS[encoding.subsampling]}p{depth}"


def _pixels(frame: VideoFrame, index: int, dtype: type[np.unsignedinteger]) -> np.ndarray:
    plane = frame.planes[index]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return np.asarray(rows[: plane.height].view(dtype)[:, : plane.width])


def _reason(error: Exception) -> str:
    """FFmpeg's words without the file name that it repeats."""
    return str(getattr(error, "strerror", None) or error)
