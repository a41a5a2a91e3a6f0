"""Decoded planes to RGB and back, with the colour matrix and the range always explicit.

The two directions are exact inverses on decoded video: chroma is replicated to full size and averaged back, RGB is kept
in float32 and outside [0, 1] where a code value lies outside the RGB cube. An unchanged frame returns to the same code
values, whatever its matrix; a wrong guess of an untagged matrix therefore costs nothing.

Source: ITU-R BT.601, BT.709, BT.2020 (non-constant luminance), H.273 for the tags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Encoding", "Matrix", "luma_from_planes", "matrix_from_tag", "planes_from_rgb", "rgb_from_planes"]

Matrix = Literal["rgb", "bt601", "bt709", "bt2020", "smpte240m", "fcc"]

LUMA_WEIGHTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
    "fcc": (0.30, 0.11),
}
"""Weights of red and blue in luma."""

TAGS: dict[int, Matrix] = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
"""H.273 matrix coefficients."""

HD_LINES = 720
"""Untagged video of at least this many lines is BT.709, anything smaller BT.601."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How the code values of three planes mean colour."""

    matrix: Matrix
    """"rgb" means that the planes are red, green and blue."""
    full_range: bool
    """Codes use 0 ... 2^bits - 1; otherwise 16 ... 235 (luma) and 16 ... 240 (chroma), scaled to `bits`."""
    bits: int
    """Bits of a code value, 8 to 16."""
    subsampling: tuple[int, int]
    """Luma rows and columns per chroma row and column, (2, 2) for 4:2:0."""

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """Type of the planes."""
        return np.uint8 if self.bits == 8 else np.uint16

    def plane_shapes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """(h, w) of the three planes of a frame; chroma is rounded up."""
        vertical, horizontal = self.subsampling
        chroma = (-(-height // vertical), -(-width // horizontal))
        return (height, width), chroma, chroma


def matrix_from_tag(tag: int, *, lines: int) -> Matrix:
    """H.273 matrix tag of a YUV stream -> matrix; unspecified and exotic tags follow the resolution rule."""
    return TAGS.get(tag, "bt709" if lines >= HD_LINES else "bt601")


def rgb_from_planes(planes: tuple[np.ndarray, np.ndarray, np.ndarray], encoding: Encoding) -> np.ndarray:
    """Planes (h, w) each, Y Cb Cr or R G B, uint8 or uint16 -> (3, H, W) float32 RGB, nominally in [0, 1]."""
    if encoding.matrix == "rgb":
        return np.asarray(np.stack(planes) / np.float32(2**encoding.bits - 1), np.float32)
    red, blue = LUMA_WEIGHTS[encoding.matrix]
    luma_scale, luma_offset, chroma_scale, chroma_offset = _codes(encoding)
    height, width = planes[0].shape
    luma = (planes[0].astype(np.float32) - luma_offset) / luma_scale
    cb, cr = ((plane.astype(np.float32) - chroma_offset) / chroma_scale for plane in planes[1:])
    to_red, to_blue = np.float32(2 * (1 - red)), np.float32(2 * (1 - blue))
    green = np.float32(1 - red - blue)
    differences = (
        to_red * cr,
        -(np.float32(red) * to_red * cr + np.float32(blue) * to_blue * cb) / green,
        to_blue * cb,
    )
    vertical, horizontal = encoding.subsampling
    rgb = np.empty((3, height, width), np.float32)
    for channel, difference in zip(rgb, differences, strict=True):
        full = difference.repeat(vertical, 0).repeat(horizontal, 1)
        np.add(luma, full[:height, :width], out=channel)
    return rgb


def luma_from_planes(planes: tuple[np.ndarray, np.ndarray, np.ndarray], encoding: Encoding, *, step: int) -> np.ndarray:
    """BT.709 luma of every `step`-th pixel either way, (h, w) float32, without the other pixels' colours.

    It is that of `rgb_from_planes(planes, encoding)[:, ::step, ::step]` up to rounding.
    """
    to_709 = LUMA_WEIGHTS["bt709"]
    weights = np.array([to_709[0], 1 - sum(to_709), to_709[1]], np.float32)
    if encoding.matrix == "rgb":
        scaled = weights / np.float32(2**encoding.bits - 1)
        return np.asarray(np.tensordot(scaled, np.stack([plane[::step, ::step] for plane in planes]), 1), np.float32)
    luma_scale, luma_offset, chroma_scale, chroma_offset = _codes(encoding)
    luma = planes[0][::step, ::step].astype(np.float32)
    luma -= luma_offset
    luma /= luma_scale
    red, blue = LUMA_WEIGHTS[encoding.matrix]
    if (red, blue) == to_709:
        return luma
    green = weights[1] / (1 - red - blue)
    vertical, horizontal = encoding.subsampling
    places = np.ix_(*(np.arange(0, n, step) // s for n, s in zip(planes[0].shape, (vertical, horizontal), strict=True)))
    for plane, own, weight in ((planes[1], blue, weights[2]), (planes[2], red, weights[0])):
        chroma = plane[places].astype(np.float32)
        chroma -= chroma_offset
        chroma *= np.float32(2 * (1 - own) * (weight - own * green)) / chroma_scale
        luma += chroma
    return luma


def planes_from_rgb(rgb: np.ndarray, encoding: Encoding) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(3, H, W) float32 RGB -> three planes as in `rgb_from_planes`, rounded and limited to the code range."""
    if encoding.matrix == "rgb":
        r, g, b = (_quantised(channel * np.float32(2**encoding.bits - 1), encoding) for channel in rgb)
        return r, g, b
    red, blue = (np.float32(weight) for weight in LUMA_WEIGHTS[encoding.matrix])
    luma_scale, luma_offset, chroma_scale, chroma_offset = _codes(encoding)
    luma = red * rgb[0] + (1 - red - blue) * rgb[1] + blue * rgb[2]
    cb = _averaged(rgb[2] - luma, encoding.subsampling) / (2 * (1 - blue))
    cr = _averaged(rgb[0] - luma, encoding.subsampling) / (2 * (1 - red))
    return (
        _quantised(luma * luma_scale + luma_offset, encoding),
        _quantised(cb * chroma_scale + chroma_offset, encoding),
        _quantised(cr * chroma_scale + chroma_offset, encoding),
    )


def _codes(encoding: Encoding) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Scale and offset of luma, scale and offset of chroma, in code values."""
    unit = 2 ** (encoding.bits - 8)
    top = 2**encoding.bits - 1
    scales = (top, 0, top, 128 * unit) if encoding.full_range else (219 * unit, 16 * unit, 224 * unit, 128 * unit)
    luma_scale, luma_offset, chroma_scale, chroma_offset = (np.float32(value) for value in scales)
    return luma_scale, luma_offset, chroma_scale, chroma_offset


def _averaged(plane: np.ndarray, subsampling: tuple[int, int]) -> np.ndarray:
    """Mean over chroma blocks; blocks that stick out at the bottom and right repeat the last pixel."""
    vertical, horizontal = subsampling
    if subsampling == (1, 1):
        return plane
    height, width = plane.shape
    plane = np.pad(plane, [(0, -height % vertical), (0, -width % horizontal)], mode="edge")
    rows = sum((plane[i::vertical] for i in range(1, vertical)), plane[::vertical])
    blocks = sum((rows[:, i::horizontal] for i in range(1, horizontal)), rows[:, ::horizontal])
    return np.asarray(blocks / np.float32(vertical * horizontal), np.float32)


def _quantised(codes: np.ndarray, encoding: Encoding) -> np.ndarray:
    return np.asarray(np.rint(codes).clip(0, 2**encoding.bits - 1), encoding.dtype)
