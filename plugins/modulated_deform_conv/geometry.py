"""What a compiled modulated deformable convolution is specialised to, and the tiles that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bsst.errors import UsageError

__all__ = ["Geometry", "geometry_from_numbers"]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What a compiled kernel is specialised to; sizes of maps and batch stay arguments."""

    channels: int
    outputs: int
    kernel_shape: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    """Top and left; the others only change the size of the output."""
    dilations: tuple[int, int]
    groups: int
    offset_groups: int

    @property
    def numbers(self) -> tuple[int, ...]:
        """All fields in a row: the one attribute of the plugin, so that no order of attributes can be mistaken."""
        pairs = (self.kernel_shape, self.strides, self.pads, self.dilations)
        return (self.channels, self.outputs, *(n for pair in pairs for n in pair), self.groups, self.offset_groups)

    def output_blocks(self) -> tuple[int, int, int]:
        """Two tile widths, powers of two, that a program computes side by side, and how many such pairs a group has."""
        outputs = self.outputs // self.groups
        if outputs > 192:
            return 128, 0, -(-outputs // 128)
        first = max(16, min(128, 1 << (outputs.bit_length() - 1)))
        rest = max(0, outputs - first)
        return first, max(16, 1 << (rest - 1).bit_length()) if rest else 0, 1

    def constants(self, *, half: bool) -> dict[str, Any]:
        """Compile-time arguments of the kernel; `half`: features are float16."""
        segment = math.gcd(self.channels // self.groups, self.channels // self.offset_groups)
        first, second, blocks = self.output_blocks()
        return {
            "CHANNELS": self.channels,
            "OUTPUTS": self.outputs,
            "GROUPS": self.groups,
            "OFFSET_GROUPS": self.offset_groups,
            "KERNEL_W": self.kernel_shape[1],
            "TAPS": self.kernel_shape[0] * self.kernel_shape[1],
            "STRIDE_Y": self.strides[0],
            "STRIDE_X": self.strides[1],
            "PAD_Y": self.pads[0],
            "PAD_X": self.pads[1],
            "DILATION_Y": self.dilations[0],
            "DILATION_X": self.dilations[1],
            "SEGMENT": segment,
            "BLOCK_POSITIONS": 32,
            "BLOCK_CHANNELS": 32 if half and segment > 16 else 16,
            "BLOCK_OUTPUTS": first,
            "REST_OUTPUTS": second,
            "OUTPUT_BLOCKS": blocks,
            "PRECISION": "ieee" if half else "tf32x3",
        }


def geometry_from_numbers(numbers: Sequence[int]) -> Geometry:
    """Inverse of `Geometry.numbers`.

    Raises:
        UsageError: not the numbers of this version.
    """
    if len(numbers) != 12:
        raise UsageError(f"expected 12 numbers of a convolution, got {list(numbers)}; export the graph again")
    channels, outputs, kernel_h, kernel_w, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x, *groups = numbers
    return Geometry(
        channels=channels,
        outputs=outputs,
        kernel_shape=(kernel_h, kernel_w),
        strides=(stride_y, stride_x),
        pads=(pad_y, pad_x),
        dilations=(dilation_y, dilation_x),
        groups=groups[0],
        offset_groups=groups[1],
    )
