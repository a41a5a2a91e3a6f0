"""What a compiled sparse window attention is specialised to, and the tiles that follow from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bsst.errors import UsageError

__all__ = ["Geometry", "geometry_from_numbers"]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What a compiled kernel is specialised to; the clip length and the token grid stay arguments."""

    heads: int
    head_channels: int
    window: int
    pooled: int
    group_frames: int
    expandable_groups: int

    @property
    def numbers(self) -> tuple[int, ...]:
        """All fields in a row: the one attribute of the plugin, so that no order of attributes can be mistaken."""
        return dataclasses.astuple(self)

    def constants(self, *, half: bool) -> dict[str, Any]:
        """Compile-time arguments of the kernel; `half`: features are float16."""
        channels = max(16, 1 << (self.head_channels - 1).bit_length())
        queries = max(16, 1 << (self.group_frames * self.window**2 - 1).bit_length())
        return {
            "HEADS": self.heads,
            "HEAD_CHANNELS": self.head_channels,
            "WINDOW": self.window,
            "POOLED": self.pooled,
            "GROUP_FRAMES": self.group_frames,
            "EXPANDABLE": self.expandable_groups,
            "BLOCK_QUERIES": min(queries, 64 if half else 16),
            "BLOCK_KEYS": 32 if half else 16,
            "BLOCK_CHANNELS": channels,
            "PRECISION": "ieee" if half else "tf32x3",
        }


def geometry_from_numbers(numbers: Sequence[int]) -> Geometry:
    """Inverse of `Geometry.numbers`.

    Raises:
        UsageError: not the numbers of this version.
    """
    fields = [field.name for field in dataclasses.fields(Geometry)]
    if len(numbers) != len(fields):
        raise UsageError(f"expected numbers for {', '.join(fields)}, got {list(numbers)}; export the graph again")
    return Geometry(**dict(zip(fields, numbers, strict=True)))
