from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from bsst.calibration.precision.pad_channels import pad_channels

HEAD = '<ir_version: 9, opset_import: ["" : 19]>'


def convolution(channels: int, kernel: int, attributes: str = "", groups: int = 1) -> onnx.ModelProto:
    """Two convolutions of one value with the same weights, and a third of their sum."""
    edge = kernel // 2
    options = f"pads=[{edge},{edge},{edge},{edge}]{attributes}"
    model = parser.parse_model(
        f"{HEAD} g (float[2,{channels},5,7] x) => (float[2,4,5,7] y) "
        f"{{ a = Conv<{options}>(x, w) r = Relu(a) b = Conv<{options}>(x, w) y = Add(r, b) }}"
    )
    weight = whole_numbers(4, channels // groups, kernel, kernel)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.checker.check_model(model, full_check=True)
    return model


def whole_numbers(*shape: int) -> np.ndarray:
    """Small ones, of which sums of products are exact in any order."""
    return np.random.default_rng(len(shape)).integers(-4, 5, shape).astype(np.float32)


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize(("channels", "padded"), [(6, 8), (9, 12), (117, 120)])
def test_channels_that_webgpu_gets_wrong_are_padded_and_the_result_stays(channels: int, padded: int) -> None:
    model = convolution(channels, 3)
    result = pad_channels(model)
    onnx.checker.check_model(result, full_check=True)
    assert [tuple(tensor.dims) for tensor in result.graph.initializer if tensor.name.startswith("w")] == [
        (4, padded, 3, 3)
    ]
    assert [node.op_type for node in result.graph.node].count("Pad") == 1, "one for both convolutions"
    x = whole_numbers(2, channels, 5, 7)
    np.testing.assert_array_equal(run(result, x=x), run(model, x=x))


@pytest.mark.parametrize(
    "model",
    [
        convolution(3, 3),
        convolution(10, 3),
        convolution(12, 3),
        convolution(9, 1),
        convolution(12, 3, ", group=2", 2),
    ],
    ids=["3 channels", "10", "12", "1x1", "groups of 6"],
)
def test_what_webgpu_gets_right_stays_as_it_is(model: onnx.ModelProto) -> None:
    assert pad_channels(model) == model


def test_weights_that_are_computed_are_padded_where_they_are_used() -> None:
    model = parser.parse_model(
        f"{HEAD} g (float[1,6,5,7] x, float[4,6,3,3] v) => (float[1,4,3,5] y) {{ w = Relu(v) y = Conv(x, w) }}"
    )
    result = pad_channels(model)
    onnx.checker.check_model(result, full_check=True)
    assert [node.op_type for node in result.graph.node] == ["Relu", "Pad", "Pad", "Conv"]
    feeds = {"x": whole_numbers(1, 6, 5, 7), "v": whole_numbers(4, 6, 3, 3)}
    np.testing.assert_array_equal(run(result, **feeds), run(model, **feeds))
