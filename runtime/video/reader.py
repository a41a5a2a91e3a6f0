"""Video file to RGB frames with their timestamps, through PyAV.

The decoder is flushed at the end, so frames held back for reordering are not lost. Every frame gets a timestamp: the
file's own, or where it has none or goes back, the next possible one. Before the first frame the file is scanned once
without decoding, so that a truncated file is refused before hours of work and the number of frames is known.

The software decoder always reads the first frame, which says what the file holds; a GPU may go on (`nvdec.py`).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import av
import av.error
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from bsst.errors import InputError, OutOfMemoryError, UsageError
from bsst.runtime.video import nvdec
from bsst.runtime.video.clock import Clock
from bsst.runtime.video.decoded import Frame, decoded_frames
from bsst.runtime.video.facts import describe, lost_with_frame, side_data
from bsst.runtime.video.log import error_text, unlogged
from bsst.runtime.video.memory import out_of_memory, ran_out
from bsst.runtime.video.scan import Scan
from bsst.runtime.video.scan import scan as scan_file
from bsst.runtime.video.sizes import Size, SizeChange
from bsst.runtime.video.source import not_a_video, open_source, quoted, require_video_file

__all__ = ["HWAccelChoice", "VideoReader"]

HWAccelChoice = Literal["auto", "none", "cuda"]
"""Where video is decoded and encoded: on the GPU if that works, in software, or on the GPU or not at all."""


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

    def require_one_size(self, end: Fraction | None = None) -> None:
        """Refuse a film whose size is known to change.

        Args:
            end: of what is read, in seconds after the first frame; all by default.

        Raises:
            InputError: it changes before.
        """
        for size in self.scan.sizes:
            changed = (size.height, size.width) != (self.info.height, self.info.width)
            if changed and (end is None or size.seconds < end):
                raise self._unlike(size)

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
        for picture in decoded_frames(self._container, self._stream, self.scan.timeline):
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
        clock = Clock(self.info, trust_pts=not self._unordered)
        begin: int | None = None
        corrupt = 0
        frame: VideoFrame | None = self._first
        self._first = None
        reformatter = VideoReformatter()
        while frame is not None:
            pts, exact = clock.time(frame)
            begin = pts if begin is None else begin
            if (frame.height, frame.width) != (self.info.height, self.info.width):
                raise self._unlike(Size((pts - begin) * self.info.time_base, frame.height, frame.width))
            corrupt += frame.is_corrupt
            self._look_for_losses(frame)
            yield Frame(
                picture=frame,
                encoding=self.info.encoding,
                reformatter=reformatter,
                pts=pts,
                duration=frame.duration or 0,
                exact=exact,
            )
            frame = next(self._frames, None)
        if clock.adjusted:
            self._warn(f"{clock.adjusted} frames had no usable timestamp and got the next possible one")
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
                if count == 0 and packet.size and not ran_out(error):
                    continue
                raise self._damage(count, error) from error
            for frame in frames:
                count += 1
                yield frame

    def _unlike(self, got: Size) -> SizeChange:
        most = max((self.info.height, self.info.width), (got.height, got.width), key=math.prod)
        high, wide = (side + side % 2 for side in most)
        fit = f"scale={wide}:{high}:force_original_aspect_ratio=decrease,pad={wide}:{high}:-1:-1"
        return SizeChange(
            f"expected all frames of {self.path} to be {self.info.height}x{self.info.width} like the first, "
            f"got {got.height}x{got.width} (height x width) at {float(got.seconds):.2f} s; restore what comes before "
            f"with --end, or make all alike: ffmpeg -i {quoted(self.path)} -vf {fit} -c:v ffv1 -c:a copy alike.mkv",
            got.seconds,
        )

    def _damage(self, count: int, error: av.error.FFmpegError) -> InputError | OutOfMemoryError:
        """What a decoder's failure means."""
        words = error_text(error)
        if ran_out(error, pixels=self._stream.width * self._stream.height):
            return out_of_memory(f"decode {self.path} after frame {count}", error)
        if count == 0 and "webp" in self._container.format.name:
            return not_a_video(self.path, error)
        return InputError(
            f"expected decodable video in {self.path}, it is damaged after frame {count}: {words}; to restore what is "
            f"left, first repair it with: ffmpeg -i {quoted(self.path)} -c:v ffv1 repaired.mkv"
        )

    def _move_to_gpu(self, first: VideoFrame) -> str:
        """Go on with the GPU if it reads the same first frame -> why not, or ""."""
        found = nvdec.open_decoder(self.path, self.scan, self.info.encoding, first)
        if isinstance(found, str):
            return found
        container, stream, frames = found
        with unlogged():
            self._frames.close()
            self._container.close()
            self._container, self._stream = container, stream
            self._frames = self._decoded_on_gpu(frames)
        self._on_gpu = True
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
            del frames
            self._container.close()
            self._start()
        yield from islice(self._decoded(), count, None)
