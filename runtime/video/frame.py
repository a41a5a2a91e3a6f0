"""Decoded frames of any pixel format to RGB: planar ones as they are, NV12 and P010 of GPUs, the rest made planar."""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter

from bsst.runtime.video.colour import Encoding, rgb_from_planes

__all__ = ["FULL_RANGE", "SUBSAMPLINGS", "frame_to_planes", "frame_to_rgb", "is_interleaved", "plane_format"]

SUBSAMPLINGS = {(1, 1): "444", (2, 1): "440", (1, 2): "422", (2, 2): "420", (1, 4): "411", (4, 4): "410"}
FULL_RANGE = int(ColorRange.JPEG)
INTERLEAVED = {"nv12": (8, 0), "p010le": (10, 6)}
"""Formats of decoders on the GPU, 4:2:0 with both chroma samples in one plane -> bits of a sample, empty bits below."""


def plane_format(encoding: Encoding) -> str:
    """FFmpeg name of the planar, native-endian pixel format that stores an encoding exactly."""
    depth = "" if encoding.bits == 8 else f"{encoding.bits}le"
    return f"gbrp{depth}" if encoding.matrix == "rgb" else f"yuv{SUBSAMPLINGS[encoding.subsampling]}p{depth}"


def frame_to_rgb(frame: VideoFrame, encoding: Encoding, reformatter: VideoReformatter) -> np.ndarray:
    """A decoded frame -> (3, H, W) float32 RGB, nominally in [0, 1]; `encoding` says what its code values mean."""
    return rgb_from_planes(frame_to_planes(frame, encoding, reformatter), encoding)


def frame_to_planes(
    frame: VideoFrame, encoding: Encoding, reformatter: VideoReformatter
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A decoded frame -> planes as in `rgb_from_planes`, which may be views of the frame."""
    if is_interleaved(frame, encoding):
        # Not by the reformatter: FFmpeg 8.1 garbles the last column of chroma of P010 at odd widths.
        empty = INTERLEAVED[frame.format.name][1]
        luma = _samples(frame, 0, encoding.dtype)[:, : frame.width] >> empty
        chroma = _samples(frame, 1, encoding.dtype)[:, : (frame.width + 1) // 2 * 2] >> empty
        return luma, chroma[:, ::2], chroma[:, 1::2]
    name = plane_format(encoding)
    if _without_alpha(frame.format.name) != name:
        # Same matrix and range on both sides: only the layout of the planes changes.
        tags = {"src_color_range": FULL_RANGE, "dst_color_range": FULL_RANGE}
        if encoding.matrix == "rgb" and (through := _by_way_of(frame)):
            frame = reformatter.reformat(frame, format=through, **tags)
        frame = reformatter.reformat(frame, format=name, src_colorspace=5, dst_colorspace=5, **tags)
    planes = [_samples(frame, index, encoding.dtype)[:, : frame.planes[index].width] for index in range(3)]
    first, second, third = planes if encoding.matrix != "rgb" else (planes[2], planes[0], planes[1])  # from G, B, R
    return first, second, third


def _without_alpha(name: str) -> str:
    """The planar format whose planes are the first three of another one's.

    They are not left to the reformatter: FFmpeg 8.1 garbles the last row of each slice of `gbrap16le` to `gbrp16le`.
    """
    return name.replace("yuvj", "yuv").replace("yuva", "yuv").replace("gbrap", "gbrp")


def _by_way_of(frame: VideoFrame) -> str:
    """Format to pass through where the direct way to planes loses levels: 15 and 16 bits a pixel, and XYZ."""
    if frame.format.name.startswith("xyz"):
        return "rgb48le"
    few = not frame.format.has_palette and max(component.bits for component in frame.format.components) < 8
    return "rgb24" if few and frame.format.is_rgb else ""


def is_interleaved(frame: VideoFrame, encoding: Encoding) -> bool:
    """Whether a frame is NV12 or P010 and stores just what an encoding says."""
    bits, _ = INTERLEAVED.get(frame.format.name, (0, 0))
    return bits == encoding.bits and encoding.subsampling == (2, 2)


def _samples(frame: VideoFrame, index: int, dtype: type[np.unsignedinteger]) -> np.ndarray:
    """A plane with the padding at the end of its rows."""
    plane = frame.planes[index]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return np.asarray(rows[: plane.height].view(dtype))
