"""Which encoder stores a video, and how: software, or NVENC where that is wanted and proves itself.

NVENC gets the container, size, bit depth, colour tags and quality of the job in a trial of a few frames, which the
software decoder reads back. An unsupported combination fails in the trial, before the job, with FFmpeg's message.

Sources of NVENC's options: `ffmpeg -h encoder=hevc_nvenc` and libavcodec/nvenc.c of FFmpeg 8: `cq` with `rc=vbr` is
constant quality on the scale of x264's crf, 0 standing for automatic; `tune=lossless` is exact; more than 8 bits are
given as P010.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import cast

import av
import av.error
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from bsst.errors import OutOfMemoryError, OutputError, UsageError
from bsst.runtime.metrics import psnr, to_uint8
from bsst.runtime.video.colour import Encoding, matrix_from_tag, planes_from_rgb, rgb_from_planes
from bsst.runtime.video.facts import LOCATIONS, Mastering, Tags, VideoInfo
from bsst.runtime.video.frame import FULL_RANGE, frame_to_rgb, plane_format
from bsst.runtime.video.log import ErrorLog, error_text
from bsst.runtime.video.memory import out_of_memory, ran_out
from bsst.runtime.video.reader import HWAccelChoice

__all__ = [
    "EncoderSettings",
    "add_video_stream",
    "choose_encoder",
    "software_settings",
    "encode_trial",
    "encoder_problem",
    "frame_from_rgb",
    "nvenc_settings",
    "write_error",
]

RGB_TAG = {"bt601": 6, "bt709": 1}
LIMITED = 1
LEFT = 1
"""Chroma location that decoders take for granted in 4:2:0."""

FAITHFUL = {"aq-mode": "none", "mbtree": "0", "x264-params": "qcomp=1:ipratio=1:pbratio=1"}
"""Options of x264 that make crf one quantiser for all: no frame or place is stored worse because it is seen less."""

TRIAL = (0, 1, 2, 4, 5, 9, 10, 11)
"""Times of the frames of a trial, in frames: uneven, because encoders that reorder frames derive times from others."""
LARGEST_SIDES = {"libx264": 16384, "libvpx-vp9": 65536}
"""Pixels; opening the encoder beyond fails without a word, or with those for a lack of memory."""
SMALLEST_SLICED = 32
"""Pixels; 4:2:0 of 9x47 is refused still."""
SAME_PICTURE = 20
"""PSNR in dB of a smooth picture after any lossy encoder that works, whatever its quality."""


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """How the frames will be encoded."""

    codec: str
    pixel_format: str
    encoding: Encoding
    tags: Tags
    options: dict[str, str]
    lossless: bool
    codec_tag: str = ""
    """Four letters for the container; "" for its own choice."""
    lost: str = ""
    """What of the source's colour description the encoder cannot store, as a warning."""


def choose_encoder(
    container: str, info: VideoInfo, *, lossless: bool, crf: int, hwaccel: HWAccelChoice
) -> tuple[EncoderSettings, str]:
    """The encoder for a job.

    Returns:
        The settings, and in words what encodes, with the reason where NVENC was asked for and does not.

    Raises:
        UsageError: the frames are larger than the codec allows, or `hwaccel` is "cuda" and NVENC cannot do it.
    """
    software = software_settings(container, info, lossless=lossless, crf=crf)
    if (side := max(info.height, info.width)) > (most := LARGEST_SIDES.get(software.codec, side)):
        raise UsageError(
            f"expected sides of at most {most} pixels for {software.codec}, got {info.height}x{info.width} (height x "
            f"width); use --lossless with a name that ends in .mkv, or scale the video down"
        )
    if hwaccel == "none":
        return software, software.codec
    problem = _format_problem(software)
    if not problem:
        settings = nvenc_settings(container, software, crf=crf)
        problem = encoder_problem(container, info, settings)
        if not problem:
            return dataclasses.replace(settings, lost=_lost(info, settings.codec)), settings.codec
    if hwaccel == "cuda":
        raise UsageError(f"expected NVENC to encode this video, it does not: {problem}; let --hwaccel be auto")
    return software, f"{software.codec} in software (not NVENC: {problem})"


def software_settings(container: str, info: VideoInfo, *, lossless: bool, crf: int) -> EncoderSettings:
    """Encoder and pixel format nearest to the source.

    H.264 stores 4:2:0 in even sizes only: odd sizes become 4:4:4, which keeps the size. It has 8 and 10 bits.
    """
    source = info.encoding
    if lossless and container == "matroska":
        name = "bgr0" if plane_format(source) == "gbrp" else plane_format(source)
        return EncoderSettings(
            codec="ffv1",
            pixel_format=name,
            encoding=source,
            tags=info.tags,
            options=ffv1_options(source, info.height, info.width),
            lossless=True,
            lost=_lost(info, "ffv1"),
        )
    encoding, tags = source, info.tags
    if source.matrix == "rgb":
        matrix = matrix_from_tag(2, lines=info.height)
        encoding = dataclasses.replace(source, matrix=matrix, full_range=False)
        tags = dataclasses.replace(tags, matrix=RGB_TAG[matrix], range=LIMITED)
    if container == "webm":
        options = {"lossless": "1"} if lossless else {"crf": str(crf), "b": "0", "row-mt": "1", "cpu-used": "4"}
        encoding = dataclasses.replace(encoding, bits=8)
        if encoding.subsampling not in ((1, 1), (1, 2), (2, 2)):
            encoding = dataclasses.replace(encoding, subsampling=(1, 1))
        codec = "libvpx-vp9"
    else:
        options = {"qp": "0"} if lossless else {"crf": str(crf)}
        options["preset"] = "medium"
        if not lossless:
            options |= FAITHFUL
        vertical, horizontal = encoding.subsampling
        if (vertical, horizontal) not in ((1, 2), (2, 2)) or info.height % vertical or info.width % horizontal:
            encoding = dataclasses.replace(encoding, subsampling=(1, 1))
        encoding = dataclasses.replace(encoding, bits=8 if encoding.bits == 8 else 10)
        codec = "libx264"
        if colour := _x264_colour(info, encoding):
            options["x264-params"] = ":".join(filter(None, (options.get("x264-params"), colour)))
    return EncoderSettings(
        codec=codec,
        pixel_format=plane_format(encoding),
        encoding=encoding,
        tags=tags,
        options=options,
        lossless=lossless,
        lost=_lost(info, codec),
    )


def ffv1_options(encoding: Encoding, height: int, width: int) -> dict[str, str]:
    """Level 3, in slices with checksums, where FFmpeg 8.1 cuts frames rightly into slices; else level 1, without.

    It refuses frames of a few pixels, and loses the last chroma samples of 4:1:1 and 4:1:0 beyond a multiple of four.
    """
    sliced = min(height, width) >= SMALLEST_SLICED and max(encoding.subsampling) <= 2
    return {"level": "3" if sliced else "1"}


def nvenc_settings(container: str, software: EncoderSettings, *, crf: int) -> EncoderSettings:
    """NVENC's counterpart of software settings of 4:2:0: H.264 for 8 bits, HEVC Main 10 for 10.

    H.264 of 10 bits needs the newest GPUs and few players decode it on theirs.
    """
    deep = software.encoding.bits > 8
    quality = (
        {"tune": "lossless"} if software.lossless else {"tune": "hq", "rc": "vbr", "cq": str(max(crf, 1)), "b": "0"}
    )
    return dataclasses.replace(
        software,
        codec="hevc_nvenc" if deep else "h264_nvenc",
        pixel_format="p010le" if deep else "yuv420p",
        options={"preset": "p6", **quality},
        codec_tag="hvc1" if deep and container in ("mp4", "mov") else "",  # Apple's players know no other
    )


def encoder_problem(container: str, info: VideoInfo, settings: EncoderSettings) -> str:
    """Encode a few frames exactly as a job would, read them back in software -> what is wrong, or ""."""
    file = BytesIO()
    with ErrorLog() as log:
        try:
            seconds = encode_trial(file, container, info, settings)
            file.seek(0)
            with av.open(file, "r") as result:
                frames = list(result.decode(video=0))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            return log.reason(error)
    return _difference(frames, info, seconds, settings)


def encode_trial(file: BytesIO | Path, container: str, info: VideoInfo, settings: EncoderSettings) -> list[Fraction]:
    """Write a short video.

    Returns:
        The time of each frame in seconds.

    Raises:
        FFmpegError: the encoder or the container refuses.
    """
    tick = round(1 / (info.rate * info.time_base)) or 1
    times = [time * tick for time in TRIAL]
    with av.open(file, "w", format=container) as output:
        stream = add_video_stream(output, info, settings)
        for picture, time in zip(_pictures(info, settings), times, strict=True):
            frame = frame_from_rgb(picture, settings)
            frame.pts, frame.duration, frame.time_base = time, tick, info.time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return [time * info.time_base for time in times]


def add_video_stream(container: OutputContainer, info: VideoInfo, settings: EncoderSettings) -> VideoStream:
    """Describe the video of a file to write."""
    stream = cast(VideoStream, container.add_stream(settings.codec, rate=info.rate, options=dict(settings.options)))
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = info.width, info.height, settings.pixel_format
    context.time_base = stream.time_base = info.time_base
    context.flags |= Flags.frame_duration
    context.colorspace, context.color_range = settings.tags.matrix, settings.tags.range
    context.color_primaries, context.color_trc = settings.tags.primaries, settings.tags.transfer
    if hasattr(context, "chroma_sample_location"):
        context.chroma_sample_location = settings.tags.chroma_location
    if settings.codec_tag:
        context.codec_tag = settings.codec_tag
    if info.sample_aspect_ratio:
        context.sample_aspect_ratio = info.sample_aspect_ratio
    return stream


def frame_from_rgb(rgb: np.ndarray, settings: EncoderSettings) -> VideoFrame:
    """(3, H, W) float32 RGB -> a frame in the planar layout of the encoding, tagged; out of range is clamped.

    PyAV turns it into the settings' pixel format, which stores the same samples in another order.
    """
    frame = VideoFrame(rgb.shape[2], rgb.shape[1], plane_format(settings.encoding))
    planes = planes_from_rgb(rgb, settings.encoding)
    if settings.encoding.matrix == "rgb":  # planes are stored as G, B, R
        planes = planes[1], planes[2], planes[0]
    for plane, pixels in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size).view(pixels.dtype)
        rows[: plane.height, : plane.width] = pixels
    frame.colorspace, frame.color_range = settings.tags.matrix, settings.tags.range
    frame.color_primaries, frame.color_trc = settings.tags.primaries, settings.tags.transfer
    return frame


def write_error(error: Exception, folder: Path, info: VideoInfo, advice: str = "") -> OutputError | OutOfMemoryError:
    """What it means that FFmpeg could not encode or write.

    Args:
        error: of PyAV.
        folder: where it should have written.
        info: of the source.
        advice: what else may help.
    """
    # An encoder that opened on a trial picture and gives up on a frame says no more than "external library".
    if ran_out(error) or isinstance(error, av.error.ExternalError) or "allocate memory" in str(error):
        return out_of_memory(f"encode {info.height}x{info.width} (height x width)", error)
    return OutputError(
        f"expected to write a video into {folder}, FFmpeg could not: {error_text(error)}; check free space and "
        f"permissions{advice}"
    )


def _x264_colour(info: VideoInfo, encoding: Encoding) -> str:
    """Chroma location and HDR metadata in x264's words; FFmpeg's encoder takes neither from PyAV before 19."""
    words = []
    if info.tags.chroma_location and encoding.subsampling == (2, 2):
        words.append(f"chromaloc={info.tags.chroma_location - 1}")
    if info.mastering.display:
        gx, gy, bx, by, rx, ry, wx, wy, most, least = info.mastering.display
        words.append(f"mastering-display=G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({most},{least})")
    if info.mastering.light:
        words.append("cll={},{}".format(*info.mastering.light))
    return ":".join(words)


def _lost(info: VideoInfo, codec: str) -> str:
    """A warning for what an encoder cannot store, "" where it stores everything."""
    lost = []
    location = info.tags.chroma_location
    tells = codec == "libx264" or hasattr(VideoFrame, "chroma_location")
    if location > LEFT and not tells:
        lost.append(f"chroma location {LOCATIONS[location]}")
    if info.mastering != Mastering() and codec != "libx264":
        lost.append("HDR mastering metadata")
    return f"{' and '.join(lost)}: not kept by {codec}, .mp4 keeps it" if lost else ""


def _format_problem(software: EncoderSettings) -> str:
    """Why NVENC cannot store what software settings store, or ""."""
    if software.codec != "libx264":
        return f"it has no {software.codec.removeprefix('lib')}"
    if software.encoding.subsampling != (2, 2):
        return f"it stores 4:2:0 at even sizes, this is {software.pixel_format}"
    return ""


def _pictures(info: VideoInfo, settings: EncoderSettings) -> Iterator[np.ndarray]:
    """What a trial encodes, (3, H, W) float32 RGB: slopes that drift, or noise where every bit must come back."""
    shapes = settings.encoding.plane_shapes(info.height, info.width)
    if settings.lossless:
        low, high, random = 64, 2**settings.encoding.bits - 64, np.random.default_rng(0)
        planes = [random.integers(low, high, shape).astype(settings.encoding.dtype) for shape in shapes]
        first = rgb_from_planes((planes[0], planes[1], planes[2]), settings.encoding)
    else:
        down = np.linspace(0.2, 0.8, info.height, dtype=np.float32)[:, None]
        right = np.linspace(0.2, 0.8, info.width, dtype=np.float32)[None]
        first = np.stack(np.broadcast_arrays(down, right, (down + right) / 2))
    yield from (np.roll(first, 4 * index, axis=2) for index in range(len(TRIAL)))  # one at a time: they are large


def _difference(frames: list[VideoFrame], info: VideoInfo, seconds: list[Fraction], settings: EncoderSettings) -> str:
    """Decoded frames against what was encoded -> what is wrong, or ""."""
    if len(frames) != len(seconds):
        return f"{len(frames)} of {len(seconds)} frames came back"
    reformatter = VideoReformatter()
    for index, (frame, picture, time) in enumerate(zip(frames, _pictures(info, settings), seconds, strict=True)):
        if frame.pts is None or abs(frame.pts * cast(Fraction, frame.time_base) - time) > Fraction(1, 1000):
            return f"frame {index} came back at {frame.time} s, written at {float(time)} s"
        tags = int(frame.colorspace), int(frame.color_range) == FULL_RANGE
        if tags != (settings.tags.matrix, settings.tags.range == FULL_RANGE):
            return f"matrix and full range came back as {tags}, written as {settings.tags}"
        got = frame_to_rgb(frame, settings.encoding, reformatter)
        if settings.lossless:
            if not np.array_equal(got, _stored(picture, settings.encoding)):
                return f"frame {index} came back changed, though lossless"
        elif (agreement := psnr(to_uint8(picture), to_uint8(got))) < SAME_PICTURE:
            return f"frame {index} came back with {agreement:.1f} dB"
    return ""


def _stored(rgb: np.ndarray, encoding: Encoding) -> np.ndarray:
    return rgb_from_planes(planes_from_rgb(rgb, encoding), encoding)
