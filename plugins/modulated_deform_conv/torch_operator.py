"""Modulated deformable convolution (DCNv2): the `torch.library` operator and the function that networks call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bsst.plugins.modulated_deform_conv.reference import reference
from bsst.plugins.modulated_deform_conv.schema import output_shape

__all__ = ["modulated_deform_conv"]


def modulated_deform_conv(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    groups: int = 1,
    offset_groups: int = 1,
) -> Tensor:
    """Convolve with learned sampling positions and factors; differentiable, and one node under `torch.export`.

    Args:
        x: (N, C, H, W), float32 or float16.
        offset: (N, offset_groups * kh * kw * 2, Ho, Wo), float32, pixels of `x`; channel
            (group * kh * kw + tap) * 2 moves that tap down, the next one right.
        mask: (N, offset_groups * kh * kw, Ho, Wo), float32, factor of each sample.
        weight: (O, C / groups, kh, kw), dtype of `x`.
        bias: (O,), dtype of `x`.
        stride: step of the kernel on both axes.
        padding: zeros around `x` on all sides.
        dilation: distance of the taps on both axes.
        groups: channel groups of the weight.
        offset_groups: channel groups of `x` that share one set of offsets.

    Returns:
        (N, O, Ho, Wo), dtype of `x`; Ho = (H + 2 padding - dilation (kh - 1) - 1) // stride + 1.

    Raises:
        UsageError: shapes that do not fit each other.
    """
    tensors = (x, offset, mask, weight, bias)
    attributes: dict[str, Any] = {
        "strides": [stride, stride],
        "pads": [padding, padding, padding, padding],
        "dilations": [dilation, dilation],
        "groups": groups,
        "offset_groups": offset_groups,
    }
    _check(*tensors, **attributes)
    if torch.compiler.is_exporting():
        result: Tensor = torch.ops.bsst.modulated_deform_conv(*tensors, **attributes)
        return result
    return reference(*tensors, **attributes)


@torch.library.custom_op("bsst::modulated_deform_conv", mutates_args=())
def _operator(
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
    return reference(
        x,
        offset,
        mask,
        weight,
        bias,
        strides=strides,
        pads=pads,
        dilations=dilations,
        groups=groups,
        offset_groups=offset_groups,
    )


@_operator.register_fake
def _fake(x: Tensor, *tensors: Tensor, **attributes: Any) -> Tensor:
    return x.new_empty(_check(x, *tensors, **attributes))


def _check(*tensors: Tensor, **attributes: Any) -> tuple[int, int, int, int]:
    x, offset, mask, weight, bias = (tensor.shape for tensor in tensors)
    return output_shape(x, offset, mask, weight, bias, **attributes)
