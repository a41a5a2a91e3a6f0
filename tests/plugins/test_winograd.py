"""Large 3x3 convolutions as Winograd products: the same numbers, and the same graph for every other target."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from bsst.plugins.operator_schema import DOMAIN
from bsst.plugins.registry import attach_functions, lower
from bsst.plugins.winograd import OP_TYPE
from bsst.plugins.winograd.graph_pass import mark_large_convolutions


def convolution(
    *, inputs: int = 128, outputs: int = 64, size: tuple[int, int] = (28, 40), bias: bool = True, **attributes: object
) -> onnx.ModelProto:
    """One convolution of a batch of two."""
    rng = np.random.default_rng(inputs)
    given = {"pads": [1, 1, 1, 1], **attributes}
    group = int(given.get("group", 1))  # type: ignore[call-overload]
    weight = (rng.standard_normal((outputs, inputs // group, 3, 3)) / np.sqrt(9 * inputs)).astype(np.float32)
    constants = [numpy_helper.from_array(weight, "w")]
    constants += [numpy_helper.from_array(rng.standard_normal(outputs).astype(np.float32), "b")] * bias
    node = helper.make_node("Conv", ["x", "w", "b"][: 2 + bias], ["y"], **given)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "stage",
        [value("x", onnx.TensorProto.FLOAT, (2, inputs, *size))],
        [value("y", onnx.TensorProto.FLOAT, ("n", "c", "h", "w"))],
        initializer=constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def run(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize(
    "shape",
    [{}, {"bias": False}, {"inputs": 131, "outputs": 67, "size": (64, 20)}, {"strides": [1, 1], "dilations": [1, 1]}],
    ids=str,
)
def test_a_large_convolution_gives_the_same_numbers_and_keeps_its_weights(shape: dict[str, object]) -> None:
    model = convolution(**shape)  # type: ignore[arg-type]
    marked = mark_large_convolutions(model)
    assert [node.op_type for node in marked.graph.node] == [OP_TYPE]
    fast = attach_functions(marked, bodies="cpu")
    assert len(fast.SerializeToString()) < len(model.SerializeToString()) + 16_000
    expected = run(model)
    error = run(fast) - expected
    assert np.sqrt((error**2).mean()) < 4e-6 * np.sqrt((expected**2).mean())
    assert np.abs(error).max() > 0  # the body ran, not the convolution
    for other in (lower(marked), attach_functions(marked)):
        np.testing.assert_array_equal(run(other), expected)
    assert {node.op_type for node in lower(marked, plugins=True).graph.node} == {"Conv"}
    assert all(node.domain != DOMAIN for node in lower(marked, bodies="cpu").graph.node)


@pytest.mark.parametrize(
    "shape",
    [
        {"inputs": 64},
        {"outputs": 32},
        {"size": (16, 16)},
        {"size": (42, 40)},
        {"strides": [2, 2]},
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        {"group": 2, "inputs": 256},
        {"pads": [0, 0, 0, 0]},
    ],
    ids=str,
)
def test_what_does_not_pay_or_is_another_product_stays(shape: dict[str, object]) -> None:
    model = convolution(**shape)  # type: ignore[arg-type]
    assert mark_large_convolutions(model) == model
