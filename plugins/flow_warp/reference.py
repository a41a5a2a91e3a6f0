"""Backward warp in plain PyTorch: the truth for every lowering, and what training runs.

y(p) = bilinear x at (row + flow_y, column + flow_x); taps outside the map are zero, so a sample half a pixel
outside keeps half of the border pixel. Equal to `grid_sample(align_corners=True)` on grids normalised by n - 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bsst.plugins.bilinear import sample_bilinear

__all__ = ["reference"]


def reference(x: Tensor, flow: Tensor, *, channels: int) -> Tensor:
    """Arguments and result as in `schema.SCHEMA`; computed in float32, returned in the dtype of `x`."""
    _, _, height, width = x.shape
    rows = torch.arange(height, dtype=torch.float32, device=x.device)[:, None]
    columns = torch.arange(width, dtype=torch.float32, device=x.device)
    return sample_bilinear(x.float(), flow[:, 1].float() + rows, flow[:, 0].float() + columns).to(x.dtype)
