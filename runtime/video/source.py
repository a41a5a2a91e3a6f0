"""Opening a video file: as FFmpeg reads it, but never another file that it names, and the stream that is the film.

Formats that only name other files (playlists, lists to join, patterns of names, session descriptions) are left out of
what FFmpeg may recognise: a "video" of a stranger would otherwise choose what is read, and a playlist without an end
would never end. Source: FFmpeg documentation, `format_whitelist`; PyAV documentation, `av.open`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import av
import av.error
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from bsst.errors import InputError, OutOfMemoryError
from bsst.files import what_is_at
from bsst.runtime.video.log import error_text
from bsst.runtime.video.memory import out_of_memory, ran_out

__all__ = ["file_url", "main_video_stream", "open_source", "quoted", "require_video_file"]

INDIRECT = frozenset({
    "applehttp", "avisynth", "concat", "concatf", "dash", "ffmetadata", "hls", "image2pipe", "imf", "lavfi", "rtp",
    "rtsp", "sap", "sdp", "tedcaptions", "tty", "vapoursynth", "webm_dash_manifest",
})  # fmt: skip
"""Demuxers that open other files or streams, or make pictures out of text."""
INDIRECT_STARTS = (b"#EXTM3U", b"ffconcat", b"v=0", b"<?xml", b"<MPD", b"[playlist]", b"[Reference]", b"<asx", b"<ASX")
HEAD_BYTES = 256
# PyAV 19 decodes metadata without being told how.
METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def open_source(path: Path | Any, *, hwaccel: HWAccel | None = None) -> InputContainer:
    """Open a file to read, or an object that reads bytes.

    Raises:
        FFmpegError: it is no media file, or of a format that names other files.
        OSError: it cannot be read.
    """
    options = {"format_whitelist": _direct_formats(), "pattern_type": "none"}
    file = file_url(path) if isinstance(path, Path) else path
    return av.open(file, "r", options=options, hwaccel=hwaccel, **METADATA)


def require_video_file(path: Path) -> None:
    """Refuse what is not one file, with the command that makes it one.

    Raises:
        InputError: a folder, a pattern, a pipe, an address, or nothing.
    """
    found = what_is_at(path)
    if found == "a file":
        return
    name = quoted(path)
    if found == "a folder":
        pictures = quoted(path / "%05d.png")
        remedy = f"make a video of its pictures first: ffmpeg -framerate 25 -i {pictures} -c:v ffv1 clip.mkv"
    elif str(path) == "-" or found == "a pipe or device":
        remedy = "save it as a file first, since it is read twice: cat > clip.mkv"
        found = "a pipe" if str(path) == "-" else found
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        found, remedy = "an address", f"download it first: curl -LO '{re.sub(':/+', '://', str(path), count=1)}'"
    elif re.search(r"%\d*d|[*?]", path.name):
        found, remedy = "a pattern of names", f"make a video first: ffmpeg -framerate 25 -i {name} -c:v ffv1 clip.mkv"
    else:
        remedy = "check the name"
    raise InputError(f"expected a video file, found {found} at {path}; {remedy}")


def not_a_video(path: Path, error: Exception) -> InputError | OutOfMemoryError:
    """Why FFmpeg could not open a file, or decode anything of it, and what to do."""
    if ran_out(error):
        return out_of_memory(f"read {path}", error)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES).lstrip(b"\xef\xbb\xbf \r\n\t")
    except OSError:
        head = b""
    if head.startswith(INDIRECT_STARTS):
        return InputError(
            f"expected a video in {path}, it is a list that names other files or addresses; join what it names first, "
            f"if you trust it: ffmpeg -i {quoted(path)} -c copy joined.mkv"
        )
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP" and b"ANIM" in head:
        code = "import sys; from PIL import Image; Image.open(sys.argv[1]).save(sys.argv[2], save_all=True)"
        return InputError(
            f"expected a video in {path}, it is an animated WebP, which this FFmpeg cannot decode; make an animated "
            f'PNG of it first, with Pillow: python -c "{code}" {quoted(path)} clip.apng'
        )
    if path.suffix.lower() in (".yuv", ".rgb", ".raw", ".nv12"):
        return InputError(
            f"expected a video in {path}, these are samples without a size; say what they are: ffmpeg -f rawvideo "
            f"-pixel_format yuv420p -video_size 1920x1080 -framerate 25 -i {quoted(path)} -c:v ffv1 clip.mkv"
        )
    return InputError(f"expected a video in {path}, FFmpeg cannot open it: {error_text(error)}; is the file complete?")


def main_video_stream(container: InputContainer, packets: Mapping[int, int] | None = None) -> VideoStream:
    """The film: no cover picture, no still picture where another stream moves, the default one, the largest.

    Args:
        container: opened file.
        packets: index of a stream -> its packets, once they are known.

    Raises:
        InputError: there is no video.
    """
    found = [
        stream
        for stream in container.streams.video
        if not stream.disposition & av.stream.Disposition.attached_pic and stream.codec_context is not None
    ]
    if found:
        moves = {s.index: packets is not None and packets.get(s.index, 0) > 1 for s in found}
        default = av.stream.Disposition.default
        return max(found, key=lambda s: (moves[s.index], bool(s.disposition & default), s.width * s.height, -s.index))
    kinds = ", ".join(sorted(set(map(_kind, container.streams)))) or "nothing"
    raise InputError(f"expected a video stream in {container.name}, found {kinds}; give a video file")


def _kind(stream: Stream) -> str:
    if stream.type != "video":
        return stream.type
    return "video of an unknown codec" if stream.codec_context is None else "a cover picture"


def file_url(path: Path) -> str:
    """What FFmpeg is told to open: absolute, since it takes the start of `12:30.mp4` for a protocol."""
    return os.path.abspath(path)


def quoted(path: Path) -> str:
    """A path for a command that a person may copy."""
    text = str(path)
    return "'" + (f"./{text}" if text.startswith("-") else text).replace("'", "'\\''") + "'"


@cache
def _direct_formats() -> str:
    return ",".join(sorted(av.formats_available - INDIRECT))
