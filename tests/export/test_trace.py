"""Constants that repeat one value are computed where a graph is loaded, not stored."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from bsst.export.trace import LARGE_MAP, spread_repeated_values
from bsst.plugins.simplify import simplify


@pytest.mark.parametrize("value", [0.0, -2.5])
def test_a_large_constant_of_one_value_is_stored_as_one_and_folds_back(value: float) -> None:
    repeated, varied = np.full((3, LARGE_MAP), value, np.float32), np.arange(LARGE_MAP, dtype=np.float32)
    few = np.full((3, 1), 4.0, np.float32)
    constants = {"repeated": repeated, "varied": varied, "few": few}
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "repeated"], ["a"]), helper.make_node("Mul", ["a", "varied"], ["b"]),
         helper.make_node("Sub", ["b", "few"], ["y"])],
        "maps",
        [helper.make_tensor_value_info("x", float32, repeated.shape)],
        [helper.make_tensor_value_info("y", float32, repeated.shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    spread_repeated_values(model.graph)
    onnx.checker.check_model(model, full_check=True)
    assert {"varied", "few"} < {tensor.name for tensor in model.graph.initializer}
    assert model.ByteSize() < 1.1 * varied.nbytes
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).random(repeated.shape, np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], (x + repeated) * varied - few, rtol=1e-6)
    folded = simplify(model)  # what the other targets begin with
    assert [node.op_type for node in folded.graph.node] == ["Add", "Mul", "Sub"]
