"""What a writer must know of a source, read from its first frame and from what FFmpeg says about its stream.

PyAV's table of side data ends before FFmpeg's (EXIF, LCEVC, 3D reference displays): types without a name are passed
over. What PyAV does not tell at all, FFmpeg's description of a file does (`stated`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from av.sidedata import sidedata
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from bsst.errors import InputError
from bsst.runtime.video.colour import Encoding, matrix_from_tag
from bsst.runtime.video.frame import FULL_RANGE, SUBSAMPLINGS
from bsst.runtime.video.timeline import Timeline

__all__ = [
    "LOCATIONS",
    "Mastering",
    "Stated",
    "Tags",
    "VideoInfo",
    "describe",
    "lost_with_frame",
    "side_data",
    "stated",
]

MOST_FRAMES_PER_SECOND = 1000
LOCATIONS = ("unspecified", "left", "center", "topleft", "top", "bottomleft", "bottom")
"""Of chroma samples, as FFmpeg numbers and names them."""
LOST = {
    "A53_CC": "closed captions of the frames are not kept; a subtitle stream is, so extract them first with: ffmpeg "
    "-f lavfi -i 'movie=FILE[out+subcc]' -map 0:1 captions.srt",
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata of the frames are not kept",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata of the frames are not kept",
    "DOVI_METADATA": "Dolby Vision metadata are not kept; what is kept is the base layer",
    "DOVI_RPU_BUFFER": "Dolby Vision metadata are not kept; what is kept is the base layer",
    "ICC_PROFILE": "the colour profile (ICC) is not kept",
    "SPHERICAL": "the marks of a 360 degree video are not kept; write them again with your camera's tool",
    "S12M_TIMECODE": "time codes of the frames are not kept",
    "AMBIENT_VIEWING_ENVIRONMENT": "the ambient viewing environment of HDR is not kept",
}
"""Side data of frames that no encoder here takes over -> what to say."""


@dataclass(frozen=True, kw_only=True)
class Tags:
    """H.273 colour tags as FFmpeg numbers them; 2 (range: 0) means untagged."""

    matrix: int
    range: int
    primaries: int
    transfer: int
    chroma_location: int = 0
    """Index in `LOCATIONS`; 0 means untagged."""


@dataclass(frozen=True, kw_only=True)
class Mastering:
    """Static HDR metadata, in the units of HEVC's messages."""

    display: tuple[int, ...] = ()
    """x and y of green, blue, red, white in 1/50000, most and least luminance in 1/10000 cd/m2; () where unknown."""
    light: tuple[int, ...] = ()
    """MaxCLL and MaxFALL in cd/m2; () where unknown."""


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What a file states about a stream and PyAV does not tell."""

    chroma_location: int = 0
    """Index in `LOCATIONS`; 0 where untagged."""
    cropping: str = ""
    """A warning, where the file wants edges hidden."""


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
    mastering: Mastering = field(default_factory=Mastering)
    stream: int | None = None
    """Index of the video stream in its file; None for the one that stands out."""
    timeline: Timeline = field(default_factory=Timeline)
    """Correction of all timestamps of the file; those of frames are corrected already."""
    start: Fraction = Fraction(0)
    """Time of the first frame in seconds."""
    span: Fraction = Fraction(0)
    """Seconds that a few frames in a row take at most, see `scan.SPAN`; 0 where unknown."""


def describe(
    frame: VideoFrame, stream: VideoStream, path: Path, *, frames: int, timeline: Timeline, chroma_location: int
) -> VideoInfo:
    """What the first frame of a film says.

    Args:
        frame: decoded.
        stream: that it is of.
        path: its file.
        frames: see `VideoInfo`.
        timeline: see `VideoInfo`.
        chroma_location: see `Stated`; for frames that do not tell.

    Raises:
        InputError: a pixel format that has no planes of equal meaning.
    """
    layout = frame.format
    is_rgb = layout.is_rgb or layout.has_palette or layout.name.startswith("xyz")
    is_grey = len([c for c in layout.components if not c.is_alpha]) < 3 and not is_rgb
    subsampling = (2, 2) if is_grey else (8 // layout.chroma_height(8), 8 // layout.chroma_width(8))
    tagged = int(frame.color_range)
    encoding = Encoding(
        matrix="rgb" if is_rgb else matrix_from_tag(int(frame.colorspace), lines=frame.height),
        # FFmpeg takes grey for full range unless it is told otherwise.
        full_range=tagged == FULL_RANGE or layout.name.startswith("yuvj") or (is_grey and tagged == 0),
        bits=min(16, max(8, *(component.bits for component in layout.components))),
        subsampling=(1, 1) if is_rgb else subsampling,
    )
    if encoding.subsampling not in SUBSAMPLINGS or layout.is_bayer:
        raise InputError(f"expected an ordinary pixel format in {path}, got {layout.name}; convert it first")
    found = side_data(frame)
    matrix = found.get("DISPLAYMATRIX")
    located = not is_rgb and not is_grey and subsampling != (1, 1)
    time_base = Fraction(frame.time_base or stream.time_base or Fraction(1, 90000))
    return VideoInfo(
        height=frame.height,
        width=frame.width,
        encoding=encoding,
        tags=Tags(
            matrix=int(frame.colorspace),
            range=FULL_RANGE if encoding.full_range and not is_rgb else tagged,
            primaries=int(frame.color_primaries),
            transfer=int(frame.color_trc),
            # PyAV before 19 does not tell
            chroma_location=int(getattr(frame, "chroma_location", chroma_location)) if located else 0,
        ),
        time_base=time_base,
        rate=_rate(stream),
        frames=frames,
        sample_aspect_ratio=Fraction(stream.sample_aspect_ratio) if stream.sample_aspect_ratio else None,
        display_matrix=None if matrix is None else tuple(np.frombuffer(matrix, np.int32).tolist()),
        mastering=_mastering(found),
        stream=stream.index,
        timeline=timeline,
        start=(frame.pts or 0) * time_base,
    )


def stated(text: str, stream: VideoStream) -> Stated:
    """Read what `bsst.runtime.video.log.description` gives for a file."""
    found = re.search(rf"^\s*Stream #0:{stream.index}\b(.*)\n((?:(?!\s*Stream #).*\n?)*)", text, re.MULTILINE)
    line, rest = found.groups() if found else ("", "")
    location = re.search(rf"[(, ]({'|'.join(LOCATIONS[1:])})\), \d+x\d+", line)
    edges = re.search(r"Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)", rest, re.IGNORECASE)
    return Stated(
        chroma_location=LOCATIONS.index(location[1]) if location else 0,
        cropping=_cropping(stream, *map(int, edges.groups())) if edges else "",
    )


def _cropping(stream: VideoStream, top: int, bottom: int, left: int, right: int) -> str:
    if not (top or bottom or left or right):
        return ""
    width, height = stream.width - left - right, stream.height - top - bottom
    return (
        f"the file wants {height}x{width} (height x width) of its {stream.height}x{stream.width} shown (clean "
        f"aperture), which is not kept: hidden edges will show; crop them first with: "
        f"ffmpeg -i FILE -vf crop={width}:{height}:{left}:{top}"
    )


def side_data(frame: VideoFrame) -> dict[str, bytes]:
    """What comes with a frame beside its pixels: FFmpeg's name -> bytes; without what PyAV has no name for."""
    table: Any = frame.side_data
    items = [item if hasattr(item, "type") else table[item] for item in table]  # keys from PyAV 19 on
    return {item.type.name: bytes(item) for item in items if item.type.value in KNOWN}


def lost_with_frame(frame: VideoFrame, found: dict[str, bytes]) -> list[str]:
    """A warning for each thing that comes with a frame and that the result will not have."""
    lost = [LOST[name] for name in found if name in LOST]
    if frame.interlaced_frame:
        lost.append(
            "the video is interlaced, in part at least, and its frames are stored as progressive ones, so that players "
            "mix the colours of both fields; deinterlace it first: "
            "ffmpeg -i FILE -vf bwdif=send_frame -c:v ffv1 -c:a copy new.mkv"
        )
    if any(component.is_alpha for component in frame.format.components) and _is_transparent(frame):
        lost.append("the video has transparency, which is lost")
    return lost


def _unnamed(kind: type[Any], value: object) -> Any:
    """A member for a number that PyAV has no name for, instead of an error that names none of them."""
    member = object.__new__(kind)
    member._name_, member._value_ = f"TYPE_{value}", value
    return member


KNOWN = frozenset(kind.value for kind in sidedata.Type)
setattr(sidedata.Type, "_missing_", classmethod(_unnamed))  # noqa: B010  a method of a class that is not ours


def _is_transparent(frame: VideoFrame) -> bool:
    if len(frame.planes) in (2, 4) and frame.format.is_planar:
        plane = frame.planes[-1]
        wide = frame.format.components[-1].bits > 8
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height]
        samples = rows.view(np.uint16 if wide else np.uint8)[:, : plane.width]
        return int(samples.min()) < 2 ** frame.format.components[-1].bits - 1
    return int(frame.reformat(format="rgba").to_ndarray()[..., 3].min()) < 255


def _mastering(found: dict[str, bytes]) -> Mastering:
    """From `AVMasteringDisplayMetadata` and `AVContentLightMetadata` of libavutil/mastering_display_metadata.h."""
    display: tuple[int, ...] = ()
    if len(data := found.get("MASTERING_DISPLAY_METADATA", b"")) >= 88:
        *rationals, has_primaries, has_luminance = np.frombuffer(data[:88], np.int32).tolist()
        values = [Fraction(n, d) if d else Fraction(0) for n, d in zip(rationals[::2], rationals[1::2], strict=True)]
        if has_primaries and has_luminance:
            red, green, blue, white = (values[i : i + 2] for i in (0, 2, 4, 6))
            least, most = values[8:]
            points = [round(50000 * value) for value in (*green, *blue, *red, *white)]
            display = (*points, round(10000 * most), round(10000 * least))
    light = found.get("CONTENT_LIGHT_LEVEL", b"")
    return Mastering(
        display=display, light=tuple(np.frombuffer(light[:8], np.uint32).tolist()) if len(light) >= 8 else ()
    )


def _rate(stream: VideoStream) -> Fraction:
    """Average frames per second; for raw DV FFmpeg gives the ticks per second instead, and muxers refuse those."""
    average = stream.average_rate
    if average and average <= MOST_FRAMES_PER_SECOND:
        return Fraction(average)
    return Fraction(stream.guessed_rate or 25)
