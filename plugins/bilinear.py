"""Bilinear sampling that is exact on integer coordinates, for the references of the sampling operators.

`grid_sample` takes coordinates divided by the map side, and only a division by a power of two is exact.
Samples outside the map count as zero per tap, so padding the map with zeros to such a side changes nothing else.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["sample_bilinear"]


def sample_bilinear(x: Tensor, y_coordinates: Tensor, x_coordinates: Tensor) -> Tensor:
    """Sample `x` at pixel coordinates; taps outside the map are zero.

    Args:
        x: (N, C, H, W), float32.
        y_coordinates: (N, Ho, Wo), rows in pixels, float32; any finite value.
        x_coordinates: (N, Ho, Wo), columns in pixels, float32.

    Returns:
        (N, C, Ho, Wo), float32.
    """
    height, width = (1 << (side - 1).bit_length() for side in x.shape[-2:])
    padded = F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))
    grid = torch.stack(
        ((2 * x_coordinates + 1) / width - 1, (2 * y_coordinates + 1) / height - 1),
        dim=-1,
    )
    return F.grid_sample(padded, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
