"""What is not finite passes through a stage of the host as such, and every other failure stays one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from onnx import TensorProto, helper

from bsst.errors import ModelError
from bsst.runtime.devices.base import Array, DeviceTensor
from bsst.runtime.devices.host import HostDevice, host_view
from bsst.runtime.sessions.ort import OrtSession


def lookup() -> OrtSession:
    """values[int(places)], as a correlation lookup does; ONNX Runtime refuses places outside."""
    nodes = [
        helper.make_node("Cast", ["places"], ["index"], to=TensorProto.INT64),
        helper.make_node("GatherElements", ["values", "index"], ["found"], axis=0),
    ]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("places", "values", "found")]
    graph = helper.make_graph(nodes, "lookup", tensors[:2], tensors[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return OrtSession("lookup", model.SerializeToString(), threads=1)


def run(places: list[float]) -> Array:
    with HostDevice() as device:
        tensors = {name: DeviceTensor(device.allocate(16), "float32", (4,)) for name in ("places", "values", "found")}
        host_view(tensors["places"])[...] = places
        host_view(tensors["values"])[...] = [5, 6, 7, 8]
        stream = device.stream("test")
        inputs: Mapping[str, DeviceTensor] = {name: tensors[name] for name in ("places", "values")}
        lookup().enqueue(inputs, {"found": tensors["found"]}, stream)
        stream.synchronize()
        return host_view(tensors["found"]).copy()


def test_a_place_that_is_not_finite_gives_nan_instead_of_the_end_of_the_job() -> None:
    assert run([0, 3, 1, 1]).tolist() == [5, 8, 6, 6]
    for value in (np.nan, np.inf):
        assert np.isnan(run([0, value, 1, 1])).all()


def test_a_place_outside_is_an_error_as_before() -> None:
    with pytest.raises(ModelError, match="stage lookup: expected a result"):
        run([0, 9, 1, 1])
