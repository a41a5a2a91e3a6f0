"""Each operator becomes exactly one ONNX node with every attribute on it."""

import importlib
import warnings

import onnx
import pytest
import torch

from bsst.plugins.flow_warp import flow_warp
from bsst.plugins.modulated_deform_conv import modulated_deform_conv
from bsst.plugins.registry import OPERATORS, translation_table
from bsst.plugins.sparse_window_attention import sparse_window_attention
from tests.plugins.cases import CASES


class _Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(6, 4, 3, 2, generator=generator))
        self.bias = torch.nn.Parameter(torch.randn(6, generator=generator))
        self.register_buffer("frames", torch.arange(3, dtype=torch.int32)[:, None])

    def forward(self, x, flow, offset, mask, tokens, active):
        warped = flow_warp(x, flow)
        y = modulated_deform_conv(
            warped, offset, mask, self.weight, self.bias, stride=2, padding=3, dilation=2, groups=2, offset_groups=4
        )
        query = tokens[:, :16].reshape(3, 4, 4, 6)
        z = sparse_window_attention(
            query, tokens, tokens, self.frames, self.frames, active, heads=3, window=4, expandable_groups=2
        )
        return y, z


@pytest.fixture(scope="module")
def nodes():
    inputs = (
        torch.zeros(1, 8, 9, 7),
        torch.zeros(1, 2, 9, 7),
        torch.zeros(1, 48, 6, 6),
        torch.zeros(1, 24, 6, 6),
        torch.zeros(3, 18, 6),
        torch.ones(3, dtype=torch.int32),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # raised by torch's exporter about its own tree specs
        program = torch.onnx.export(
            _Network().eval(),
            inputs,
            dynamo=True,
            opset_version=19,
            custom_translation_table=translation_table(),
            verbose=False,
        )
    model = program.model_proto
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 19, "bsst": 1}
    return {node.op_type: node for node in model.graph.node if node.domain == "bsst"}


@pytest.mark.parametrize("schema", OPERATORS, ids=lambda schema: schema.name)
def test_operator_is_one_node_with_all_inputs_and_attributes(nodes, schema) -> None:
    node = nodes[schema.op_type]
    assert len(node.input) == len(schema.inputs)
    assert {attribute.name for attribute in node.attribute} == set(schema.attribute_names)


def test_attributes_keep_their_values(nodes) -> None:
    values = {
        attribute.name: onnx.helper.get_attribute_value(attribute)
        for node in nodes.values()
        for attribute in node.attribute
    }
    assert values == {
        "strides": [2, 2],
        "pads": [3, 3, 3, 3],
        "dilations": [2, 2],
        "groups": 2,
        "offset_groups": 4,
        "heads": 3,
        "window": 4,
        "expandable_groups": 2,
        "channels": 8,
    }


@pytest.mark.parametrize("case", CASES, ids=[f"{case.schema.name}-{case.label}" for case in CASES])
def test_operator_has_the_schema_and_the_shape_rule_that_torch_expects(case) -> None:
    importlib.import_module(f"bsst.plugins.{case.schema.name}.torch_operator")
    operator = getattr(torch.ops.bsst, case.schema.name).default
    torch.library.opcheck(
        operator, case.tensors, dict(case.attributes), test_utils=("test_schema", "test_faketensor"), rtol=0, atol=0
    )


def test_the_package_of_an_operator_gives_everything_about_it() -> None:
    from bsst.plugins import modulated_deform_conv as package

    assert package.SCHEMA.op_type == "BsstModulatedDeformConv"
    assert callable(package.modulated_deform_conv)
    assert all(importlib.import_module(f"{package.__name__}.{name}") for name in ("onnx_function", "trt_plugin"))
