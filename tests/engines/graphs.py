"""Small ONNX stages for tests of builders."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, parser


def warp_and_attend(seed: int = 3) -> bytes:
    """Convolution, GridSample, layer normalisation and attention on odd sizes; fp32, weights by seed."""
    model = parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 19]>
        stage (float[1,8,15,21] x, float[1,15,21,2] grid) => (float[1,8,15,21] y, float[45,45] attention) {
          c = Conv <pads=[1,1,1,1]> (x, w, b)
          s = GridSample <mode="bilinear", padding_mode="zeros", align_corners=1> (c, grid)
          y = Relu (s)
          size = Constant <value_ints=[45,56]> ()
          t = Reshape (y, size)
          n = LayerNormalization <axis=-1> (t, scale)
          q = MatMul (n, m)
          k = Transpose <perm=[1,0]> (n)
          l = MatMul (q, k)
          attention = Softmax <axis=-1> (l)
        }""")
    rng = np.random.default_rng(seed)
    weights = {"w": (8, 8, 3, 3), "b": (8,), "scale": (56,), "m": (56, 56)}
    for name, shape in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), name))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def mostly_half() -> bytes:
    """Five nodes, three of them with float16 outputs, one float32, one int64."""
    model = parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 19]>
        stage (float[1,8,3] x) => (float[1,8,3] y, int64[3] size) {
          a = Cast <to=10> (x)
          b = Relu (a)
          c = Neg (b)
          y = Cast <to=1> (c)
          size = Shape (y)
        }""")
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def with_unknown_node() -> bytes:
    """A node that no target knows."""
    model = parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 19, "bsst" : 1]>
        stage (float[1,8] x) => (float[1,8] y) { y = bsst.Mystery (x) }""")
    return model.SerializeToString(deterministic=True)
