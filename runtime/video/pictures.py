"""Clips that are folders of pictures, PNG, JPEG or TIFF of 8 or 16 bits: the form of data sets, renderers and scanners.

A folder's pictures are taken in natural order (2.png before 10.png), those of a pattern such as `%06d.png` by number.
A number that is missing is refused, as frames are missing then.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import av
import av.error
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from bsst.errors import InputError, OutOfMemoryError, OutputError, UsageError
from bsst.files import what_is_at
from bsst.runtime.video.colour import Encoding
from bsst.runtime.video.decoded import Frame
from bsst.runtime.video.encoder import EncoderSettings, ffv1_options, frame_from_rgb
from bsst.runtime.video.facts import Stated, Tags, VideoInfo, describe, lost_with_frame, side_data, stated
from bsst.runtime.video.frame import FULL_RANGE, plane_format
from bsst.runtime.video.log import description, error_text
from bsst.runtime.video.memory import out_of_memory, ran_out
from bsst.runtime.video.reader import HWAccelChoice
from bsst.runtime.video.scan import SPAN, Scan
from bsst.runtime.video.source import not_a_video, open_source
from bsst.runtime.video.timeline import Timeline

__all__ = [
    "PICTURES",
    "PictureReader",
    "PictureWriter",
    "are_pictures",
    "is_pattern",
    "natural",
    "picture_names",
    "picture_paths",
]

ENCODERS = {
    ".png": ("png", "rgb24", "rgb48be"),
    ".tif": ("tiff", "rgb24", "rgb48le"),
    ".tiff": ("tiff", "rgb24", "rgb48le"),
    ".jpg": ("mjpeg", "yuvj444p", ""),
    ".jpeg": ("mjpeg", "yuvj444p", ""),
}
"""Suffix -> encoder, its pixel format for 8 bits, and for more."""
PICTURES = tuple(ENCODERS)
RATE = Fraction(25)
PATTERN = re.compile(r"%0?(\d*)d")


def is_pattern(path: Path) -> bool:
    """Whether a name stands for numbered files, such as `%06d.png`."""
    numbered = PATTERN.search(path.name) is not None and path.suffix.lower() in PICTURES
    return numbered and what_is_at(path) == "nothing"


def are_pictures(path: Path) -> bool:
    """Whether a name stands for pictures: a pattern, or a folder."""
    return is_pattern(path) or what_is_at(path) == "a folder"


def picture_names(out: Path, sources: tuple[Path, ...]) -> tuple[Callable[[int, int], str], str]:
    """Names of pictures to write, and their suffix: those of the source's pictures, or numbers from 1 on.

    Args:
        out: folder or pattern.
        sources: pictures of the source, if it is made of them.

    Returns:
        Index in the source and ordinal in the result -> name; the suffix.
    """
    if not is_pattern(out):
        return (lambda index, count: sources[index].name), sources[0].suffix.lower()
    first = re.search(r"(\d+)\D*$", sources[0].name) if sources else None
    begin = int(first[1]) if first else 1
    return (lambda index, count: out.name % (begin + (index if sources else count))), out.suffix.lower()


def natural(path: Path) -> list[Any]:
    """Sorts 2.png before 10.png."""
    return [(0, int(part), part) if part.isdigit() else (1, part.casefold(), part)
            for part in re.split(r"(\d+)", path.name) if part]  # fmt: skip


def picture_paths(path: Path) -> tuple[Path, ...]:
    """The pictures of a folder or pattern, in order.

    Raises:
        InputError: none, of several kinds, or with a gap in their numbers.
    """
    folder = path.parent if is_pattern(path) else path
    try:
        files = [folder / entry.name for entry in os.scandir(folder) if entry.is_file()]
    except OSError as error:
        raise InputError(f"expected a folder of pictures at {folder}, got {error.strerror}; check the name") from error
    if folder != path:
        before, after = (re.escape(text) for text in re.split(PATTERN, path.name)[::2])
        files = [file for file in files if re.fullmatch(rf"{before}\d+{after}", file.name)]
    found = sorted((f for f in files if f.suffix.lower() in PICTURES and not f.name.startswith(".")), key=natural)
    if not found:
        raise InputError(f"expected pictures ({', '.join(PICTURES)}) at {path}, found none; check the name")
    if len(kinds := {ENCODERS[file.suffix.lower()][0]: file for file in found}) > 1:
        names = " and ".join(file.name for file in kinds.values())
        raise InputError(f"expected pictures of one kind in {folder}, found {names}; name one kind: FOLDER/%06d.png")
    _require_no_gap(found)
    return tuple(found)


def _require_no_gap(found: list[Path]) -> None:
    """Refuse numbers that do not rise by the same step; other names have no numbers."""
    parts = [re.fullmatch(r"(.*?)(\d+)(\D*)", file.name) for file in found]
    if len({(part[1], part[3]) if part else None for part in parts}) != 1:
        return
    numbers = [int(part[2]) for part in parts if part]
    steps = [b - a for a, b in zip(numbers[:-1], numbers[1:], strict=True)]
    for step, before, after in zip(steps, found[:-1], found[1:], strict=True):
        if step != min(steps):
            raise InputError(
                f"expected pictures without a gap in {found[0].parent}, {after.name} follows {before.name}; add what "
                f"is missing, or number them anew"
            )


class PictureReader:
    """Iterates over pictures as frames of a constant rate; otherwise like `VideoReader`.

    Args:
        path: folder or pattern.
        rate: pictures a second.

    Raises:
        InputError: see `picture_paths`; or the first one cannot be read.
    """

    gpu_problem = ""

    def __init__(self, path: Path, *, rate: Fraction | None = None) -> None:
        self.path, self.warnings = path, list[str]()
        self.paths = picture_paths(path)
        self._rate = rate or RATE
        self._first: tuple[VideoFrame, VideoInfo] | None = self._read(0)
        frame, self.info = self._first
        self._format = frame.format.name
        self.scan = Scan(stream=0, frames=len(self.paths), timeline=Timeline(), stated=Stated(), warnings=())
        if self.info.display_matrix:
            self.warnings.append("pictures are turned by a mark in their EXIF data, which pictures written do not have")

    @property
    def decoder(self) -> str:
        """What decodes."""
        return f"{len(self.paths)} pictures {self.paths[0].suffix}"

    def accelerate(self, hwaccel: HWAccelChoice) -> None:
        """Software decodes.

        Raises:
            UsageError: `hwaccel` is "cuda".
        """
        if hwaccel == "cuda":
            raise UsageError("expected a video for --hwaccel cuda, got pictures; let it be auto")

    def require_one_size(self, end: Fraction | None = None) -> None:
        """Nothing is known before they are read."""

    def seek(self, pts: int) -> Iterator[Frame]:
        """Pictures from a number on."""
        reformatter = VideoReformatter()
        for index in range(pts, len(self.paths)):
            yield self._frame(index, reformatter)

    def restart(self) -> None:
        """Nothing to go back to."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._first = None

    def __iter__(self) -> Iterator[Frame]:
        return self.seek(0)

    def _frame(self, index: int, reformatter: VideoReformatter) -> Frame:
        read = self._first if index == 0 and self._first else self._read(index)
        self._first = None
        picture, info = read
        if (picture.height, picture.width) != (self.info.height, self.info.width):
            raise InputError(
                f"expected all pictures of {self.path} to be {self.info.height}x{self.info.width} like the first, "
                f"got {picture.height}x{picture.width} (height x width) in {self.paths[index].name}; "
                "scale it or take it away"
            )
        lost = lost_with_frame(picture, side_data(picture))
        self.warnings += [message for message in lost if message not in self.warnings]
        encoding = info.encoding if picture.format.name != self._format else self.info.encoding
        return Frame(picture=picture, encoding=encoding, reformatter=reformatter, pts=index, duration=1, exact=True)

    def _read(self, index: int) -> tuple[VideoFrame, VideoInfo]:
        path = self.paths[index]
        try:
            with open_source(path) as container:
                stream = container.streams.video[0]
                located = stated(description(container), stream).chroma_location
                frame = next(container.decode(stream))
                info = describe(
                    frame, stream, path, frames=len(self.paths), timeline=Timeline(), chroma_location=located
                )
        except (av.error.FFmpegError, OSError, StopIteration, IndexError) as error:
            if isinstance(error, av.error.FFmpegError | OSError):
                raise not_a_video(path, error) from error
            raise InputError(f"expected a picture in {path}, found none; is the file complete?") from error
        return frame, replace(
            info, time_base=1 / self._rate, rate=self._rate, start=Fraction(0), stream=None, span=SPAN / self._rate
        )


class PictureWriter:
    """Writes a folder of pictures, RGB of as many bits as the source has, 8 or 16. Use as a context manager.

    Args:
        folder: to create.
        names: name of the picture shown at a time in ticks, and written after so many others.
        suffix: of the names, one of `PICTURES`.
        info: of the source.
        origin: time of the first picture, in ticks.

    Raises:
        OutputError: they cannot be written.
    """

    earliest = Fraction(0)

    def __init__(
        self, folder: Path, names: Callable[[int, int], str], suffix: str, info: VideoInfo, *, origin: int = 0
    ) -> None:
        self._folder, self._names, self.origin = folder, names, origin
        self._codec, shallow, deep = ENCODERS[suffix]
        self._pixel_format = deep if deep and info.encoding.bits > 8 else shallow
        full = Encoding(matrix="rgb", full_range=True, bits=16, subsampling=(1, 1))
        encoding = replace(full, bits=8 if self._pixel_format == shallow else 16)
        if self._codec == "mjpeg":
            encoding = replace(encoding, matrix="bt601")
        planes = plane_format(encoding)
        self.settings = EncoderSettings(
            codec="ffv1",  # of segments; pictures are made of them in the end
            pixel_format="bgr0" if planes == "gbrp" else planes,
            encoding=encoding,
            tags=Tags(matrix=5 if self._codec == "mjpeg" else 0, range=FULL_RANGE, primaries=2, transfer=2),
            options=ffv1_options(encoding, info.height, info.width),
            lossless=self._codec != "mjpeg",
        )
        self.encoder = f"{self._codec} {self._pixel_format}"
        self.warnings: list[str] = []
        if info.encoding.bits > 8 and not deep:
            self.warnings.append(f"{suffix} stores 8 of the source's {info.encoding.bits} bits; .png keeps them")
        context: Any = av.CodecContext.create(self._codec, "w")
        context.width, context.height, context.pix_fmt = info.width, info.height, self._pixel_format
        context.time_base = Fraction(1, 25)
        if self._codec == "mjpeg":
            context.qmin, context.qmax, context.color_range = 1, 2, FULL_RANGE
        self._context, self._count, self._reformatter = context, 0, VideoReformatter()
        try:
            folder.mkdir()
        except OSError as error:
            raise self._error(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context = None

    def write(self, rgb: np.ndarray, *, pts: int, duration: int) -> None:
        """Append one picture; see `VideoWriter.write`."""
        self._save(frame_from_rgb(rgb, self.settings), pts)

    def write_packet(self, packet: Packet[Any]) -> None:
        """Append the picture of a packet that an encoder with the same `settings` made."""
        pts = cast(int, packet.pts)
        for frame in packet.decode():
            self._save(frame, pts)

    def _save(self, frame: VideoFrame, pts: int) -> None:
        try:
            picture = self._reformatter.reformat(
                frame,
                format=self._pixel_format,
                src_colorspace=5,
                dst_colorspace=5,
                src_color_range=FULL_RANGE,
                dst_color_range=FULL_RANGE,
            )
            picture.pts, picture.time_base = self._count, Fraction(1, 25)
            data = b"".join(bytes(packet) for packet in self._context.encode(picture))
            (self._folder / self._names(pts, self._count)).write_bytes(data)
        except (av.error.FFmpegError, OSError) as error:
            raise self._error(error) from error
        self._count += 1

    def _error(self, error: Exception) -> OutputError | OutOfMemoryError:
        if ran_out(error):
            return out_of_memory("write pictures", error)
        return OutputError(
            f"expected to write pictures into {self._folder.parent}, could not: {error_text(error)}; check free space "
            f"and permissions"
        )
