"""Graphs of one stage in two shapes hold their weights once."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from bsst.export.share import share_weights

WEIGHTS = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)


def graph(rows: int, *, weights: str, values: np.ndarray = WEIGHTS) -> onnx.ModelProto:
    """(rows, 8) @ weights, flattened: the shape is a constant of its own in every graph."""
    nodes = [
        helper.make_node("MatMul", ["x", weights], ["product"]),
        helper.make_node("Reshape", ["product", "shape"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(values, weights),
        numpy_helper.from_array(np.array([rows * 16], np.int64), "shape"),
    ]
    ports = [
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)]
        for name, shape in (("x", (rows, 8)), ("y", (rows * 16,)))
    ]
    body = helper.make_graph(nodes, "stage", *ports, initializer=constants)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


# The second graph calls another of its constants as the first one calls the weights.
@pytest.mark.parametrize("called", ["w", "w2", "shape2"])
def test_a_head_followed_by_the_tail_is_the_graph_itself_to_onnx_runtime(called: str) -> None:
    models = [graph(3, weights="w"), graph(5, weights=called)]
    heads, tail = share_weights(models)
    assert len(tail) > WEIGHTS.nbytes
    for model, head in zip(models, heads, strict=True):
        assert len(head) < WEIGHTS.nbytes
        rows = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        x = np.random.default_rng(1).standard_normal((rows, 8)).astype(np.float32)
        (got,) = ort.InferenceSession(head + tail, providers=["CPUExecutionProvider"]).run(None, {"x": x})
        expected = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"x": x}
        )
        np.testing.assert_array_equal(got, expected[0])
        onnx.checker.check_model(onnx.load_from_string(head + tail))


def test_weights_that_differ_stay_in_each_head() -> None:
    heads, tail = share_weights([graph(3, weights="w"), graph(5, weights="w", values=WEIGHTS + 1)])
    assert tail == b"" or len(tail) < 64
    assert all(len(head) > WEIGHTS.nbytes for head in heads)
