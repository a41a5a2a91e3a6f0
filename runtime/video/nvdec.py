"""A GPU's decoder through FFmpeg's CUDA hwaccel (NVDEC), in a CUDA context of its own; PyAV copies frames to the host.

It is taken only if it reads the first frame as the software decoder did, which says what the file holds. Source: PyAV
documentation, `av.codec.hwaccel.HWAccel`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av.error
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from bsst.runtime.metrics import psnr, to_uint8
from bsst.runtime.video.colour import Encoding
from bsst.runtime.video.decoded import decoded_frames
from bsst.runtime.video.frame import frame_to_rgb, is_interleaved
from bsst.runtime.video.log import ErrorLog, unlogged
from bsst.runtime.video.scan import Scan
from bsst.runtime.video.source import open_source

__all__ = ["OnGpu", "open_decoder"]

SAME_PICTURE = 40
"""PSNR in dB of one frame from two decoders; exact for H.264, HEVC, VP9 and AV1, whose arithmetic is normative."""

OnGpu = tuple[InputContainer, VideoStream, Iterator[VideoFrame]]
"""A file, its film, and the frames after the first."""


def open_decoder(path: Path, scan: Scan, encoding: Encoding, first: VideoFrame) -> OnGpu | str:
    """Open a file on the GPU.

    Args:
        path: the file.
        scan: of it.
        encoding: of its frames.
        first: its first frame, decoded in software.

    Returns:
        The decoder, or why there is none.
    """
    with ErrorLog() as log:
        try:
            container = open_on_gpu(path)
        except (av.error.FFmpegError, OSError, RuntimeError) as error:
            return log.reason(error)
        stream = next(s for s in container.streams.video if s.index == scan.stream)
        frames = decoded_frames(container, stream, scan.timeline)
        try:
            problem = _difference(stream, frames, encoding, first)
        except av.error.FFmpegError as error:
            problem = log.reason(error)
    if problem:
        with unlogged():
            del frames, stream
            container.close()
            del container
        return problem
    return container, stream, frames


def open_on_gpu(path: Path) -> InputContainer:
    """Open a file whose video is decoded through CUDA; a codec without a CUDA path is decoded in software all the same.

    Raises:
        FFmpegError: no driver, no GPU, or no memory.
        RuntimeError: no stream of the file has a codec with a CUDA path.
    """
    return open_source(path, hwaccel=HWAccel("cuda", allow_software_fallback=False))


def _difference(stream: VideoStream, frames: Iterator[VideoFrame], encoding: Encoding, first: VideoFrame) -> str:
    """Decode one frame on the GPU -> how it differs from the software decoder's, or ""."""
    if not stream.codec_context.is_hwaccel:  # PyAV goes on in software without a word
        return f"FFmpeg's decoder {stream.codec_context.name} has no CUDA path"
    frame = next(frames, None)
    if frame is None:
        return "it gives no frame"
    if not is_interleaved(frame, encoding):
        return f"it gives {frame.format.name} for {first.format.name}"
    expected, got = ((f.width, f.height, f.pts) for f in (first, frame))
    if expected != got:
        return f"its first frame has (width, height, pts) {got}, the software decoder's {expected}"
    reformatter = VideoReformatter()
    agreement = psnr(*(to_uint8(frame_to_rgb(f, encoding, reformatter)) for f in (first, frame)))
    if agreement < SAME_PICTURE:
        return f"its first frame agrees with the software decoder's to {agreement:.1f} dB only"
    return ""
