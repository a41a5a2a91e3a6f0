from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser

from bsst.calibration.precision.emulate import emulate_half

CHAIN = parser.parse_model("""<ir_version: 9, opset_import: ["" : 19]>
    chain (float[37,37] x) => (float[37,37] y) {
      h = Cast <to=10> (x)
      a = Mul (h, h)
      b = Add (a, h)
      c = Relu (b)
      y = Cast <to=1> (c)
    }""")


def run(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: NDArray[Any] = session.run(None, {"x": x})[0]
    return result


def numpy_half(x: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        h = x.astype(np.float16)
        return np.maximum(h * h + h, 0).astype(np.float32)


@pytest.mark.parametrize("size", [0.02, 1.0, 100.0])
def test_every_step_rounds_exactly_as_float16_does(size: float) -> None:
    x = np.random.default_rng(1).normal(0, size, (37, 37)).astype(np.float32)
    onnx.checker.check_model(emulate_half(CHAIN), full_check=True)
    got, expected = run(emulate_half(CHAIN), x), numpy_half(x)
    normal = np.square(x) > 2**-14  # the smallest intermediate is no subnormal
    assert normal.sum() > 500
    np.testing.assert_array_equal(got[normal], expected[normal])


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e10])
def test_every_step_rounds_exactly_as_bfloat16_does(size: float) -> None:
    chain = onnx.ModelProto()
    chain.CopyFrom(CHAIN)
    chain.graph.node[0].attribute[0].i = TensorProto.BFLOAT16
    bfloat16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    x = np.random.default_rng(1).normal(0, size, (37, 37)).astype(np.float32)
    h = x.astype(bfloat16)
    expected = np.maximum(h * h + h, 0).astype(np.float32)
    np.testing.assert_array_equal(run(emulate_half(chain), x), expected)


def test_constants_in_bfloat16_stay_what_they_are() -> None:
    model = parser.parse_model("""<ir_version: 9, opset_import: ["" : 19]>
        scale (float[7] x) => (float[7] y) {
          h = Cast <to=16> (x)
          a = Mul (h, third)
          y = Cast <to=1> (a)
        }""")
    bfloat16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    third = np.asarray(1 / 3, bfloat16)
    model.graph.initializer.append(numpy_helper.from_array(third, "third"))
    x = np.arange(7, dtype=np.float32)
    np.testing.assert_array_equal(run(emulate_half(model), x), (x.astype(bfloat16) * third).astype(np.float32))


def test_overflow_is_infinite_where_float16_overflows() -> None:
    x = np.linspace(200, 300, 37 * 37, dtype=np.float32).reshape(37, 37)
    expected = numpy_half(x)
    assert 0 < np.isinf(expected).sum() < expected.size
    np.testing.assert_array_equal(run(emulate_half(CHAIN), x), expected)


def test_onnx_runtime_itself_leaves_roundings_out() -> None:
    """Why the emulation exists; when this fails, ONNX Runtime rounds and the emulation can go."""
    x = np.random.default_rng(1).normal(0, 1, (37, 37)).astype(np.float32)
    assert not np.array_equal(run(CHAIN, x), numpy_half(x))
