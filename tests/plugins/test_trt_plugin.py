"""The TensorRT contract: lowered graphs, registration, launches; on NVIDIA's own `tensorrt.plugin`."""

import dataclasses
import re
import types

import numpy as np
import onnx
import onnx.helper
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from bsst.engines.builder import BuildOptions, StageGraph
from bsst.engines.tensorrt import TensorRTBuilder
from bsst.errors import ExportError, ModelError, UsageError
from bsst.plugins import registry
from bsst.plugins.modulated_deform_conv.geometry import geometry_from_numbers
from bsst.plugins.modulated_deform_conv.reference import reference as convolution_reference
from bsst.plugins.sparse_window_attention.geometry import geometry_from_numbers as attention_geometry
from bsst.plugins.sparse_window_attention.reference import reference as attention_reference
from bsst.plugins.tensorrt_registration import ATTRIBUTE
from bsst.plugins.tensorrt_version import check_tensorrt_version
from tests.fakes.install import installed_tensorrt, play
from tests.plugins.cases import ATTENTION_CASES, CONVOLUTION_CASES, WARP_CASES, Case
from tests.plugins.node_model import node_model

CASES = CONVOLUTION_CASES + ATTENTION_CASES
_LABELS = [f"{case.schema.name}-{case.label}" for case in CASES]
_TRT_TYPE = {torch.float32: "float32", torch.float16: "float16", torch.int32: "int32"}


class BsstModulatedDeformConvChannelsLast(OpRun):
    """What the plugin computes, from its own inputs and attribute alone."""

    op_domain = "bsst"

    def _run(self, x, offset, mask, weight, bias, geometry=None, **_):
        g = geometry_from_numbers(geometry)
        x, offset, mask, weight, bias = (torch.from_numpy(np.array(a)) for a in (x, offset, mask, weight, bias))
        assert (g.channels, g.outputs) == (x.shape[3], weight.shape[3])
        assert g.kernel_shape == tuple(weight.shape[:2])
        y = convolution_reference(
            x.permute(0, 3, 1, 2),
            offset,
            mask,
            weight.permute(3, 2, 0, 1),
            bias,
            strides=g.strides,
            pads=(*g.pads, 0, 0),
            dilations=g.dilations,
            groups=g.groups,
            offset_groups=g.offset_groups,
        )
        return (y.permute(0, 2, 3, 1).contiguous().numpy(),)


class BsstSparseWindowAttentionFused(OpRun):
    """What the plugin computes, from its own inputs and attribute alone."""

    op_domain = "bsst"

    def _run(self, *tensors, geometry=None, **_):
        g = attention_geometry(geometry)
        query, key, value, *tables = (torch.from_numpy(np.array(a)) for a in tensors)
        assert g.heads * g.head_channels == query.shape[3]
        assert g.pooled == key.shape[1] - query.shape[1] * query.shape[2]
        assert g.group_frames == tables[0].shape[1]
        y = attention_reference(
            query, key, value, *tables, heads=g.heads, window=g.window, expandable_groups=g.expandable_groups
        )
        return (y.numpy(),)


def _attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _plugin_node(case: Case, dtype: torch.dtype) -> tuple[onnx.ModelProto, onnx.NodeProto]:
    lowered = registry.lower(node_model(case, dtype), plugins=True)
    (node,) = (node for node in lowered.graph.node if node.domain == "bsst")
    return lowered, node


@pytest.mark.parametrize("case", CASES, ids=_LABELS)
def test_plugin_graph_means_the_same(case) -> None:
    lowered, _ = _plugin_node(case, torch.float32)
    evaluator = ReferenceEvaluator(
        lowered, new_ops=[BsstModulatedDeformConvChannelsLast, BsstSparseWindowAttentionFused]
    )
    inputs = {spec.name: tensor.numpy() for spec, tensor in zip(case.schema.inputs, case.tensors, strict=True)}
    (result,) = evaluator.run(None, inputs)
    assert case.error(torch.from_numpy(np.array(result)), torch.float32) <= 1e-6


@pytest.mark.parametrize("case", [CONVOLUTION_CASES[0], ATTENTION_CASES[0]], ids=lambda case: case.schema.name)
def test_parser_finds_the_plugin_by_its_attributes_and_nothing_else(case) -> None:
    lowered, node = _plugin_node(case, torch.float16)
    attributes = _attributes(node)
    assert attributes.pop(ATTRIBUTE)
    assert attributes == {"plugin_namespace": b"bsst", "plugin_version": b"1", "aot": 1}
    assert not lowered.functions  # from 10.15 on a local function could win
    assert node.op_type not in {schema.name for schema in onnx.defs.get_all_schemas()}  # a built-in importer would win


def test_operator_without_a_plugin_is_inlined() -> None:
    lowered = registry.lower(node_model(WARP_CASES[0], torch.float32), plugins=True)
    assert all(node.domain == "" for node in lowered.graph.node)
    assert [opset.domain for opset in lowered.opset_import] == [""]


def test_a_graph_without_shapes_is_refused() -> None:
    model = node_model(CONVOLUTION_CASES[0], torch.float32)
    for value in model.graph.input:
        value.type.tensor_type.ClearField("shape")
    with pytest.raises(ExportError, match="expected static shapes"):
        registry.lower(model, plugins=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("case", [CONVOLUTION_CASES[0], ATTENTION_CASES[0]], ids=lambda case: case.schema.name)
def test_engine_launches_the_kernel_over_everything(case, dtype, tensorrt) -> None:
    registry.register_plugins(capability=89)
    _, node = _plugin_node(case, dtype)
    shapes = [(tuple(t.shape), getattr(tensorrt, _TRT_TYPE[t.dtype])) for t in case.inputs(dtype)]
    expected = tuple(case.expected(dtype).shape)
    if case.schema.name == "modulated_deform_conv":
        (n, c, h, w), kind = shapes[0]
        (o, i, kh, kw), _ = shapes[3]
        shapes[0], shapes[3] = ((n, h, w, c), kind), ((kh, kw, i, o), kind)
        expected = (expected[0], expected[2], expected[3], expected[1])
    launched = types.SimpleNamespace(**play(f"bsst::{node.op_type}", shapes, {ATTRIBUTE: _attributes(node)[ATTRIBUTE]}))
    assert launched.output_shape == expected
    parameters = re.findall(rf"\.param \.(u\d+)\b[^\n]*{launched.entry}_param_\d+", launched.ptx)
    assert parameters == ["u64"] * len(shapes) + ["u32"] * len(launched.sizes) + ["u64"]
    assert f".reqntid {launched.block[0]}" in launched.ptx
    assert launched.block[1:] == (1, 1)
    assert launched.shared_bytes < 48 * 1024
    if case.schema.name == "modulated_deform_conv":
        n, h, w, _ = shapes[0][0]
        assert launched.sizes == (n, h, w, expected[1], expected[2])
        assert launched.grid == (-(-n * expected[1] * expected[2] // 32), 2, 1)
    else:
        groups, frames = shapes[3][0]
        assert launched.sizes == expected[:3]
        assert launched.grid[1:] == (groups, case.attributes["heads"])
        blocks = geometry_block(case, dtype)
        assert launched.grid[0] == -(-frames * case.attributes["window"] ** 2 // blocks)


def geometry_block(case: Case, dtype: torch.dtype) -> int:
    _, node = _plugin_node(case, dtype)
    constants = attention_geometry(_attributes(node)[ATTRIBUTE]).constants(half=dtype == torch.float16)
    return constants["BLOCK_QUERIES"]


@pytest.mark.parametrize("half", [0, 1, 4])
def test_features_of_two_types_or_half_coordinates_have_no_implementation(half, tensorrt) -> None:
    registry.register_plugins(capability=80)
    _, node = _plugin_node(CONVOLUTION_CASES[4], torch.float32)
    shapes = [(shape, tensorrt.float32) for shape in ((3, 7, 3, 5), (3, 18, 7, 3), (3, 9, 7, 3), (3, 3, 5, 7), (7,))]
    shapes[half] = (shapes[half][0], tensorrt.float16)
    with pytest.raises(RuntimeError, match="no implementation"):
        play(f"bsst::{node.op_type}", shapes, {ATTRIBUTE: _attributes(node)[ATTRIBUTE]})


def test_an_attribute_the_plugin_does_not_know_is_refused(tensorrt) -> None:
    registry.register_plugins(capability=80)
    _, node = _plugin_node(CONVOLUTION_CASES[4], torch.float32)
    fields = {ATTRIBUTE: _attributes(node)[ATTRIBUTE], "deform_groups": [1]}
    with pytest.raises(AssertionError, match="Unexpected attribute"):
        play(f"bsst::{node.op_type}", [((3, 7, 3, 5), tensorrt.float32)], fields)


def test_registering_twice_is_refused(tensorrt) -> None:
    registry.register_plugins(capability=80)
    with pytest.raises(ValueError, match="already has|reserved or used"):
        registry.register_plugins(capability=80)


def test_numbers_of_another_version_are_refused() -> None:
    with pytest.raises(UsageError, match="export the graph again"):
        geometry_from_numbers((1, 2, 3))
    with pytest.raises(UsageError, match="export the graph again"):
        attention_geometry((1, 2, 3, 4, 5, 6, 7))


@pytest.mark.parametrize(("version", "reason"), [("10.8.0.43", "came with 10.9"), ("10.14.1.48", "broken in 10.14")])
def test_versions_without_working_plugins_are_refused_with_the_reason(version, reason) -> None:
    with installed_tensorrt(version=version), pytest.raises(ModelError, match=reason):
        registry.register_plugins(capability=89)


@pytest.mark.parametrize(
    ("version", "plugins"),
    [
        *((version, False) for version in ("10.3.0", "10.9.0.34", "10.13.3", "10.15.1", "11.4.1")),
        *((version, True) for version in ("10.9.0.34", "10.13.3", "10.15.1.29", "11.4.1.2")),
    ],
)
def test_versions_that_work_pass(version, plugins) -> None:
    check_tensorrt_version(version, plugins=plugins)


@pytest.mark.parametrize(
    ("version", "plugins"), [("8.6.1", False), ("10.2.0", False), ("10.14.1.48", False), ("10.8.0", True)]
)
def test_versions_that_fail_are_refused(version, plugins) -> None:
    with pytest.raises(ModelError, match=rf"except 10\.14, got {version}"):
        check_tensorrt_version(version, plugins=plugins)


def test_content_key_covers_every_kernel_of_a_graph() -> None:
    lowered, node = _plugin_node(CONVOLUTION_CASES[0], torch.float16)
    (first,) = registry.plugin_ptx(lowered, capability=80).items()
    (second,) = registry.plugin_ptx(lowered, capability=90).items()
    assert first[0] == second[0]
    assert node.op_type in first[0]
    assert b".target sm_80\n" in first[1]
    assert b".target sm_90a\n" in second[1]


@pytest.mark.needs_tensorrt
@pytest.mark.needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("case", [CONVOLUTION_CASES[0], ATTENTION_CASES[0]], ids=lambda case: case.schema.name)
def test_tensorrt_itself_builds_an_engine_with_the_kernel(case, dtype, tmp_path) -> None:
    builder, options = TensorRTBuilder(), BuildOptions(work_directory=tmp_path)
    capability = builder.kernel_capability(options)
    assert capability is not None
    lowered, _ = _plugin_node(case, dtype)
    ptx = registry.plugin_ptx(lowered, capability=capability)
    options = dataclasses.replace(options, plugin_capability=capability, plugin_ptx=ptx)
    assert builder.build(StageGraph(name=case.schema.name, model=lowered.SerializeToString()), options).data
