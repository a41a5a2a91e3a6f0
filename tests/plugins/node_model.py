"""ONNX models of one operator node."""

from __future__ import annotations

import onnx
import onnx.helper
import torch

from tests.plugins.cases import Case

__all__ = ["node_model"]

_ONNX_TYPE = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.int32: onnx.TensorProto.INT32,
}


def node_model(case: Case, dtype: torch.dtype) -> onnx.ModelProto:
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
