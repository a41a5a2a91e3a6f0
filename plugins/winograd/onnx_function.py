# mypy: ignore-errors
# Script bodies are graphs in Python syntax; onnxscript checks them when it compiles them.
"""A 3x3 convolution as ONNX functions of standard operators, opset 19.

`portable` is Conv. `cpu` is Winograd's F(4x4, 3x3): 36 products of (O, I) by (I, tiles) instead of 144 per tile of 4x4
pixels. ONNX Runtime folds the transform of the weights when a session is made, so a plan holds nine values a kernel and
only the session's memory holds 36. Transforms are matrix products too: that of the input a convolution with 36 fixed
kernels of one channel and stride 4, the others products with fixed matrices.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1, F(4x4, 3x3).
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxscript
from onnx import numpy_helper
from onnxscript import opset19 as op
from onnxscript.values import Opset

from bsst.plugins.operator_schema import DOMAIN, VERSION

__all__ = ["cpu", "portable"]

_domain = Opset(DOMAIN, VERSION)

_BT = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0],
       [0, 4, 0, -5, 0, 1]]  # fmt: skip
_G = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6],
      [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]  # fmt: skip
_AT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


def _both_axes(matrix: list[list[float]], *shape: int) -> onnx.TensorProto:
    """The transform of rows and of columns by one matrix, as one matrix over flattened patches."""
    return numpy_helper.from_array(np.kron(matrix, matrix).reshape(shape).astype(np.float32))


INPUT = _both_axes(_BT, 36, 1, 6, 6)
KERNEL = _both_axes(_G, 36, 9)
OUTPUT = _both_axes(_AT, 16, 36)


@onnxscript.script(_domain, default_opset=op)
def portable(x, weight, bias):
    """Compute Conv(x, weight, bias)."""
    return op.Conv(x, weight, bias, pads=[1, 1, 1, 1])


@onnxscript.script(_domain, default_opset=op)
def cpu(x, weight, bias):
    """Compute OUTPUT @ ((KERNEL @ weight) @ (INPUT * x)), tile by tile; P = N * tiles."""
    batch = op.Shape(x, start=0, end=1)
    inputs = op.Shape(x, start=1, end=2)
    height = op.Shape(x, start=2, end=3)
    width = op.Shape(x, start=3, end=4)
    outputs = op.Shape(weight, start=0, end=1)
    rows = height / [4]
    columns = width / [4]
    tiles = rows * columns

    kernels = op.Transpose(op.Reshape(weight, op.Concat(outputs * inputs, [9], axis=0)), perm=[1, 0])
    kernels = op.Reshape(op.MatMul(op.Constant(value=KERNEL), kernels), op.Concat([36], outputs, inputs, axis=0))

    maps = op.Reshape(x, op.Concat(batch * inputs, [1], height, width, axis=0))
    patches = op.Conv(maps, op.Constant(value=INPUT), pads=[1, 1, 1, 1], strides=[4, 4])  # (N * I, 36, rows, columns)
    patches = op.Transpose(op.Reshape(patches, op.Concat(batch, inputs, [36], tiles, axis=0)), perm=[2, 1, 0, 3])
    patches = op.Reshape(patches, op.Concat([36], inputs, batch * tiles, axis=0))

    products = op.Reshape(op.MatMul(kernels, patches), op.Concat([36], outputs * batch * tiles, axis=0))
    pixels = op.MatMul(op.Constant(value=OUTPUT), products)  # (16, O * P)
    pixels = op.Reshape(pixels, op.Concat([4, 4], outputs, batch, rows, columns, axis=0))
    y = op.Reshape(op.Transpose(pixels, perm=[3, 2, 4, 0, 5, 1]), op.Concat(batch, outputs, height, width, axis=0))
    return y + op.Unsqueeze(bias, [1, 2])
