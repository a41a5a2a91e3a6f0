"""Modulated deformable convolution in plain PyTorch: the truth for every lowering, and what training runs.

y_o(p) = b_o + sum_c sum_k W[o, c, k] * M[g(c), k, p] * x_c(stride * p - pad + dilation * k + D[g(c), k, p])

with bilinear x_c, zero outside per tap. One sampling call over all taps and offset groups, then one product.
Source: Zhu et al., "Deformable ConvNets v2", equation 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bsst.plugins.bilinear import sample_bilinear

__all__ = ["reference"]


def reference(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    offset_groups: int,
) -> Tensor:
    """Arguments and result as in `schema.SCHEMA`; computed in float32, returned in the dtype of `x`."""
    batch, channels, height, width = x.shape
    out_channels, _, kernel_h, kernel_w = weight.shape
    out_h, out_w = offset.shape[-2:]
    taps = kernel_h * kernel_w

    def positions(axis: int) -> Tensor:
        """Undisplaced coordinates along one axis, (kernel side, output side)."""
        outputs = torch.arange(offset.shape[2 + axis], dtype=torch.float32, device=x.device)
        steps = torch.arange(weight.shape[2 + axis], dtype=torch.float32, device=x.device)
        return steps[:, None] * dilations[axis] + outputs * strides[axis] - pads[axis]

    rows = positions(0)[:, None, :, None].expand(kernel_h, kernel_w, out_h, out_w)
    columns = positions(1)[None, :, None, :].expand(kernel_h, kernel_w, out_h, out_w)
    shift = offset.float().reshape(batch * offset_groups, taps, 2, out_h, out_w)
    sampled = sample_bilinear(
        x.float().reshape(batch * offset_groups, channels // offset_groups, height, width),
        (shift[:, :, 0] + rows.reshape(taps, out_h, out_w)).flatten(1, 2),
        (shift[:, :, 1] + columns.reshape(taps, out_h, out_w)).flatten(1, 2),
    )  # (N * offset_groups, C / offset_groups, taps * Ho, Wo)
    sampled = sampled * mask.float().reshape(batch * offset_groups, 1, taps * out_h, out_w)
    y = torch.matmul(
        weight.float().reshape(groups, out_channels // groups, channels // groups * taps),
        sampled.reshape(batch, groups, channels // groups * taps, out_h * out_w),
    )
    y = y.reshape(batch, out_channels, out_h, out_w) + bias.float()[:, None, None]
    return y.to(x.dtype)
