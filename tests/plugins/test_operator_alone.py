"""One operator without the rest of bsst: PyTorch operator, ONNX function and TensorRT registration from one import."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnx.helper
import onnxruntime
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bsst.plugins import flow_warp, modulated_deform_conv, sparse_window_attention
from tests.fakes.install import play
from tests.plugins.cases import ATTENTION_CASES, CONVOLUTION_CASES, WARP_CASES, Case

FIRST = [
    (modulated_deform_conv, CONVOLUTION_CASES[0]),
    (sparse_window_attention, ATTENTION_CASES[0]),
    (flow_warp, WARP_CASES[0]),
]


@pytest.mark.parametrize("device", ["fake", "meta"])
@pytest.mark.parametrize(("package", "case"), FIRST, ids=lambda value: getattr(value, "label", ""))
def test_shapes_are_known_without_computing(package, case: Case, device: str) -> None:
    assert package.SCHEMA is case.schema
    getattr(package, case.schema.name)  # importing the operator registers it with torch
    operator = getattr(torch.ops.bsst, case.schema.name)
    expected = tuple(case.expected(torch.float16).shape)
    inputs = case.inputs(torch.float16)
    if device == "meta":
        result = operator(*(tensor.to("meta") for tensor in inputs), **case.attributes)
    else:
        with FakeTensorMode() as mode:
            result = operator(*map(mode.from_tensor, inputs), **case.attributes)
    assert (tuple(result.shape), result.dtype) == (expected, torch.float16)


@pytest.mark.parametrize(("package", "case"), FIRST, ids=lambda value: getattr(value, "label", ""))
def test_its_onnx_function_works_in_a_model_of_a_stranger(package, case: Case) -> None:
    function = package.portable.to_function_proto()
    names = [spec.name for spec in case.schema.inputs]
    node = onnx.helper.make_node(function.name, names, ["y"], domain=function.domain, **case.attributes)
    kinds = {torch.float32: onnx.TensorProto.FLOAT, torch.int32: onnx.TensorProto.INT32}
    infos = [
        onnx.helper.make_tensor_value_info(name, kinds[tensor.dtype], list(tensor.shape))
        for name, tensor in zip(names, case.tensors, strict=True)
    ]
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, list(case.expected(torch.float32).shape))
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "theirs", infos, [output]),
        functions=[function],
        opset_imports=[onnx.helper.make_opsetid("", 19), onnx.helper.make_opsetid(function.domain, 1)],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {name: np.asarray(tensor) for name, tensor in zip(names, case.tensors, strict=True)}
    (result,) = session.run(None, feed)
    assert case.error(torch.from_numpy(result), torch.float32) <= 1e-5


def test_it_alone_is_registered_with_tensorrt(tensorrt) -> None:
    modulated_deform_conv.register_tensorrt(capability=86)
    shapes = [(1, 5, 7, 8), (1, 18, 5, 7), (1, 9, 5, 7), (3, 3, 8, 4), (4,)]
    inputs = [(shape, tensorrt.float32) for shape in shapes]
    launched = play(
        "bsst::BsstModulatedDeformConvChannelsLast", inputs, {"geometry": [8, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1]}
    )
    assert launched["output_shape"] == (1, 5, 7, 4)
    assert len(tensorrt.get_plugin_registry().creators) == 1


def test_a_name_it_has_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"bsst\.plugins\.flow_warp' has no attribute 'register_tensorrt'"):
        _ = flow_warp.register_tensorrt


def test_importing_operators_brings_neither_torch_nor_triton_nor_onnx() -> None:
    code = (
        "import sys; from bsst.plugins import modulated_deform_conv, sparse_window_attention, flow_warp; "
        "assert modulated_deform_conv.SCHEMA.op_type == 'BsstModulatedDeformConv'; "
        "print(sorted({'torch', 'triton', 'onnx', 'onnxscript', 'tensorrt'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
