"""The ONNX lowerings, run by ONNX Runtime, against the references."""

import numpy as np
import onnx
import onnx.helper
import onnxruntime
import pytest
import torch

from bsst.plugins import registry
from tests.plugins.cases import CASES, Case

_ONNX_TYPE = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.int32: onnx.TensorProto.INT32,
}
_LABELS = [f"{case.schema.name}-{case.label}" for case in CASES]


def _node_model(case: Case, dtype: torch.dtype) -> onnx.ModelProto:
    """Model of one node."""
    names = [spec.name for spec in case.schema.inputs]
    infos = [
        onnx.helper.make_tensor_value_info(name, _ONNX_TYPE[tensor.dtype], list(tensor.shape))
        for name, tensor in zip(names, case.inputs(dtype), strict=True)
    ]
    node = onnx.helper.make_node(case.schema.op_type, names, ["y"], domain="bsst", **case.attributes)
    output = onnx.helper.make_tensor_value_info("y", _ONNX_TYPE[dtype], list(case.expected(dtype).shape))
    return onnx.helper.make_model(
        onnx.helper.make_graph([node], "one", infos, [output]),
        opset_imports=[onnx.helper.make_opsetid("", 19), onnx.helper.make_opsetid("bsst", 1)],
        ir_version=10,
    )


def _mode(node: onnx.NodeProto) -> bytes:
    """Interpolation of a GridSample; any other spelling than `bilinear` is silently nearest in TensorRT."""
    return next(attribute.s for attribute in node.attribute if attribute.name == "mode")


def _run(model: onnx.ModelProto, case: Case, dtype: torch.dtype) -> torch.Tensor:
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    tensors = zip(case.schema.inputs, case.inputs(dtype), strict=True)
    (result,) = session.run(None, {spec.name: np.asarray(tensor) for spec, tensor in tensors})
    return torch.from_numpy(result)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("target", ["cpu", "tensorrt-rtx"])
@pytest.mark.parametrize("case", CASES, ids=_LABELS)
def test_lowered_graph_equals_the_reference(case, target, dtype) -> None:
    lowered = registry.lower(_node_model(case, dtype), target)
    operators = {node.op_type for node in lowered.graph.node}
    assert [opset.version for opset in lowered.opset_import if opset.domain == ""] == [19]
    assert all(node.domain == "" for node in lowered.graph.node)
    assert not lowered.functions
    assert not operators & {"Shape", "Range", "CastLike", "Constant", "Pad", "Expand", "If", "Loop", "NonZero"}
    assert target == "cpu" or "DeformConv" not in operators
    assert all(_mode(node) == b"bilinear" for node in lowered.graph.node if node.op_type == "GridSample")
    tolerance = 1e-5 if dtype == torch.float32 else case.schema.tolerance.float16
    assert case.error(_run(lowered, case, dtype), dtype) <= tolerance


@pytest.mark.parametrize("case", CASES, ids=_LABELS)
def test_attached_function_gives_the_node_its_meaning(case) -> None:
    model = registry.attach_functions(_node_model(case, torch.float32))
    assert [node.op_type for node in model.graph.node] == [case.schema.op_type]
    assert case.error(_run(model, case, torch.float32), torch.float32) <= 1e-5


def test_lowering_is_deterministic() -> None:
    model = _node_model(CASES[0], torch.float32)
    first, second = (registry.lower(model, "tensorrt-rtx").SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_tensorrt_keeps_nodes_and_names_the_plugin() -> None:
    case = CASES[0]
    model = registry.attach_functions(_node_model(case, torch.float16))
    lowered = registry.lower(model, "tensorrt")
    (node,) = lowered.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    added = {"plugin_namespace": b"bsst", "plugin_version": b"1", "aot": 1}
    assert attributes == {**case.attributes, **added}
    assert not lowered.functions
    assert len(model.functions) == 1
