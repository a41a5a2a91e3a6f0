"""Backward warp by a flow: the `torch.library` operator and the function that networks call."""

from __future__ import annotations

import torch
from torch import Tensor

from bsst.plugins.flow_warp.reference import reference
from bsst.plugins.flow_warp.schema import output_shape

__all__ = ["flow_warp"]


def flow_warp(x: Tensor, flow: Tensor) -> Tensor:
    """Warp `x` backwards by `flow`; differentiable, and one node under `torch.export`.

    Args:
        x: (N, C, H, W), float32 or float16.
        flow: (N, 2, H, W), float32, pixels of this grid; channel 0 to the right, channel 1 downwards.

    Returns:
        (N, C, H, W), dtype of `x`: `x` at (row + flow_y, column + flow_x), bilinear, zero outside per tap.

    Raises:
        UsageError: the flow is not on the grid of `x`.
    """
    channels = x.shape[1]
    output_shape(x.shape, flow.shape, channels=channels)
    if torch.compiler.is_exporting():
        result: Tensor = torch.ops.bsst.flow_warp(x, flow, channels=channels)
        return result
    return reference(x, flow, channels=channels)


@torch.library.custom_op("bsst::flow_warp", mutates_args=())
def _operator(x: Tensor, flow: Tensor, *, channels: int) -> Tensor:
    return reference(x, flow, channels=channels)


@_operator.register_fake
def _fake(x: Tensor, flow: Tensor, *, channels: int) -> Tensor:
    return x.new_empty(output_shape(x.shape, flow.shape, channels=channels))
