# mypy: ignore-errors
# Script bodies are graphs in Python syntax; onnxscript checks them when it compiles them.
"""Modulated deformable convolution as ONNX functions of standard operators, opset 19, coordinates in float32.

`cpu` is the standard DeformConv, which ONNX Runtime runs near the speed of its matrix products. `portable` is one
GridSample over all taps and offset groups, one product with the mask, one matrix product: for runtimes without
DeformConv (TensorRT-RTX, OpenVINO) and for float16 features, whose matrix product then stays float16.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnxscript
from onnxscript import opset19 as op
from onnxscript.values import Opset

from bsst.plugins.operator_schema import DOMAIN, VERSION

__all__ = ["cpu", "portable"]

_domain = Opset(DOMAIN, VERSION)
_FLOAT = onnx.TensorProto.FLOAT


@onnxscript.script(_domain, default_opset=op)
def cpu(
    x,
    offset,
    mask,
    weight,
    bias,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    offset_groups: int,
):
    """Compute DeformConv(x, weight, offset, bias, mask), all float32."""
    y = op.DeformConv(
        op.Cast(x, to=_FLOAT),
        op.Cast(weight, to=_FLOAT),
        offset,
        op.Cast(bias, to=_FLOAT),
        mask,
        strides=strides,
        pads=pads,
        dilations=dilations,
        group=groups,
        offset_group=offset_groups,
    )
    return op.CastLike(y, x)


@onnxscript.script(_domain, default_opset=op)
def portable(
    x,
    offset,
    mask,
    weight,
    bias,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    offset_groups: int,
):
    """Compute weight @ (GridSample(x, positions) * mask) + bias; B = N * offset_groups, K = kh * kw, P = Ho * Wo."""
    batch = op.Shape(x, start=0, end=1)
    height = op.Shape(x, start=2, end=3)
    width = op.Shape(x, start=3, end=4)
    out_size = op.Shape(offset, start=2, end=4)
    kernel = op.Shape(weight, start=2, end=4)
    taps = op.ReduceProd(kernel)  # (1,)
    sampled_batch = batch * op.Reshape(op.Constant(value_int=offset_groups), [1])

    # Undisplaced rows (kh, 1, Ho, 1) and columns (1, kw, 1, Wo).
    step = op.Cast(op.Constant(value_ints=strides), to=_FLOAT)
    spread = op.Cast(op.Constant(value_ints=dilations), to=_FLOAT)
    pad = op.Cast(op.Constant(value_ints=pads), to=_FLOAT)
    taps_y = op.Cast(op.Range(0, op.Gather(kernel, 0), 1), to=_FLOAT) * op.Gather(spread, 0) - op.Gather(pad, 0)
    taps_x = op.Cast(op.Range(0, op.Gather(kernel, 1), 1), to=_FLOAT) * op.Gather(spread, 1) - op.Gather(pad, 1)
    outputs_y = op.Cast(op.Range(0, op.Gather(out_size, 0), 1), to=_FLOAT) * op.Gather(step, 0)
    outputs_x = op.Cast(op.Range(0, op.Gather(out_size, 1), 1), to=_FLOAT) * op.Gather(step, 1)
    rows = op.Unsqueeze(taps_y, [1, 2, 3]) + op.Unsqueeze(outputs_y, [0, 1, 3])
    columns = op.Unsqueeze(taps_x, [0, 2, 3]) + op.Unsqueeze(outputs_x, [0, 1, 2])

    shift = op.Reshape(offset, op.Concat(sampled_batch, kernel, [2], out_size, axis=0))  # (B, kh, kw, 2, Ho, Wo)
    down, right = op.Split(shift, axis=3, num_outputs=2)
    source_rows = op.Squeeze(down, [3]) + rows  # (B, kh, kw, Ho, Wo)
    source_columns = op.Squeeze(right, [3]) + columns
    grid = op.Concat(
        op.Unsqueeze((source_columns * 2.0 + 1.0) / op.Cast(width, to=_FLOAT) - 1.0, [-1]),
        op.Unsqueeze((source_rows * 2.0 + 1.0) / op.Cast(height, to=_FLOAT) - 1.0, [-1]),
        axis=-1,
    )
    pixels = op.ReduceProd(out_size)
    image = op.Reshape(x, op.Concat(sampled_batch, [-1], height, width, axis=0))  # (B, C / offset_groups, H, W)
    sampled = op.GridSample(
        op.Cast(image, to=_FLOAT),
        op.Reshape(grid, op.Concat(sampled_batch, taps, pixels, [2], axis=0)),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=0,
    )  # (B, C / offset_groups, K, P)
    factors = op.Reshape(mask, op.Concat(sampled_batch, [1], taps, pixels, axis=0))
    group_count = op.Reshape(op.Constant(value_int=groups), [1])
    group_channels = op.Shape(weight, start=1, end=2)
    samples = op.Reshape(
        op.CastLike(sampled * factors, weight),
        op.Concat(batch, group_count, group_channels * taps, pixels, axis=0),
    )
    kernels = op.Reshape(weight, op.Concat(group_count, [-1], group_channels * taps, axis=0))
    product = op.Reshape(op.MatMul(kernels, samples), op.Concat(batch, [-1], out_size, axis=0))
    return product + op.Unsqueeze(bias, [1, 2])
