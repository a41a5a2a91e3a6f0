"""The ONNX lowerings, run by ONNX Runtime, against the references."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bsst.plugins import registry
from tests.plugins.cases import ATTENTION_CASES, CASES, Case
from tests.plugins.node_model import node_model

_LABELS = [f"{case.schema.name}-{case.label}" for case in CASES]
_BODIES = [
    pytest.param(case, bodies, id=f"{label}-{bodies}")
    for case, label in zip(CASES, _LABELS, strict=True)
    for bodies in ("portable", "cpu")
    if bodies == "portable" or case not in ATTENTION_CASES
]


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
@pytest.mark.parametrize(("case", "bodies"), _BODIES)
def test_lowered_graph_equals_the_reference(case, bodies, dtype) -> None:
    lowered = registry.lower(node_model(case, dtype), bodies=bodies)
    operators = {node.op_type for node in lowered.graph.node}
    assert [opset.version for opset in lowered.opset_import if opset.domain == ""] == [19]
    assert all(node.domain == "" for node in lowered.graph.node)
    assert not lowered.functions
    assert not operators & {"Shape", "Range", "CastLike", "Constant", "Pad", "Expand", "If", "Loop", "NonZero"}
    assert bodies == "cpu" or "DeformConv" not in operators
    assert all(_mode(node) == b"bilinear" for node in lowered.graph.node if node.op_type == "GridSample")
    tolerance = 1e-5 if dtype == torch.float32 else case.schema.tolerance.float16
    assert case.error(_run(lowered, case, dtype), dtype) <= tolerance


@pytest.mark.parametrize("case", CASES, ids=_LABELS)
def test_attached_function_gives_the_node_its_meaning(case) -> None:
    model = registry.attach_functions(node_model(case, torch.float32))
    assert [node.op_type for node in model.graph.node] == [case.schema.op_type]
    assert case.error(_run(model, case, torch.float32), torch.float32) <= 1e-5


def test_attention_has_one_body_for_all_targets() -> None:
    model = node_model(ATTENTION_CASES[0], torch.float32)
    assert registry.lower(model, bodies="cpu") == registry.lower(model)


def test_lowering_is_deterministic() -> None:
    model = node_model(CASES[0], torch.float32)
    first, second = (registry.lower(model).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
