"""Clips as training sees them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["VISIBLE_DB", "Batch"]

VISIBLE_DB = 41.0
"""Clips blurred so little that their PSNR exceeds this teach restraint; a few teach it well enough."""


@dataclass(frozen=True)
class Batch:
    """`blurry`, `sharp`: (N, T, 3, H, W) in [0, 1]; `forward`, `backward`: (N, T-1, 2, H/4, W/4) at 1/4 scale."""

    blurry: Tensor
    sharp: Tensor
    forward: Tensor
    backward: Tensor
