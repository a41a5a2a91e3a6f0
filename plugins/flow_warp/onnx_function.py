# mypy: ignore-errors
# Script bodies are graphs in Python syntax; onnxscript checks them when it compiles them.
"""Backward warp as ONNX functions of standard operators, opset 19, coordinates in float32.

`portable` samples with GridSample, which every runtime has. `cpu` calls a 1x1 DeformConv of C groups whose offsets
are the flow, rows first: no grid is computed, and ONNX Runtime makes one sampling plan for all channels.
"""

from __future__ import annotations

import onnx
import onnxscript
from onnxscript import opset19 as op
from onnxscript.values import Opset

from bsst.plugins.operator_schema import DOMAIN, VERSION

__all__ = ["cpu", "portable"]

_domain = Opset(DOMAIN, VERSION)
_FLOAT = onnx.TensorProto.FLOAT


@onnxscript.script(_domain, default_opset=op)
def portable(x, flow, channels: int):
    """Compute GridSample(x, normalised positions); align_corners=0 divides by the side, which may be 1."""
    height = op.Shape(x, start=2, end=3)
    width = op.Shape(x, start=3, end=4)
    rows = op.Unsqueeze(op.Cast(op.Range(0, op.Squeeze(height), 1), to=_FLOAT), [-1])  # (H, 1)
    columns = op.Cast(op.Range(0, op.Squeeze(width), 1), to=_FLOAT)  # (W,)
    right, down = op.Split(flow, axis=1, num_outputs=2)  # (N, 1, H, W)
    grid = op.Concat(
        op.Unsqueeze(((right + columns) * 2.0 + 1.0) / op.Cast(width, to=_FLOAT) - 1.0, [-1]),
        op.Unsqueeze(((down + rows) * 2.0 + 1.0) / op.Cast(height, to=_FLOAT) - 1.0, [-1]),
        axis=-1,
    )
    sampled = op.GridSample(
        op.Cast(x, to=_FLOAT), op.Squeeze(grid, [1]), mode="bilinear", padding_mode="zeros", align_corners=0
    )
    return op.CastLike(sampled, x)


@onnxscript.script(_domain, default_opset=op)
def cpu(x, flow, channels: int):
    """Compute DeformConv(x, ones, flow with rows first)."""
    weight = op.Expand(op.Constant(value_float=1.0), op.Concat(op.Shape(x, start=1, end=2), [1, 1, 1], axis=0))
    offset = op.Gather(flow, [1, 0], axis=1)
    sampled = op.DeformConv(op.Cast(x, to=_FLOAT), weight, offset, group=channels, kernel_shape=[1, 1])
    return op.CastLike(sampled, x)
