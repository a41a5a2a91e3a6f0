"""A sabotaged node is found by name, in graphs of any precision, and a drift is not blamed on a node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from bsst.calibration.parity.bisect import first_bad_node, first_bad_stage, trusted_graphs
from bsst.calibration.parity.stage_session import GraphSession
from bsst.calibration.parity.stages import StageError, StageFigures, tensor_error
from bsst.calibration.precision.to_half import feature_tensors, to_half
from bsst.plan.archive import Plan, open_plan
from bsst.plugins.registry import lower
from tests.calibration.parity.sabotage import scale_weights

GOOD = StageError(120.0)


@pytest.fixture(scope="module")
def plan(cpu_plan: Path) -> Plan:
    return open_plan(cpu_plan)


def graph(plan: Plan, stage: str) -> onnx.ModelProto:
    return onnx.load_from_string(plan.member(stage))


def inputs(plan: Plan, stage: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {tensor.name: rng.random(tensor.shape, np.float32) for tensor in plan.manifest.stage(stage).inputs}


def find(plan: Plan, broken: onnx.ModelProto, stage: str, minimum: float):
    trusted = trusted_graphs(graph(plan, stage))
    return first_bad_node(broken, trusted, inputs(plan, stage), minimum=minimum, threads=1)


def replace_operator(name: str, operator: str) -> Callable[[onnx.GraphProto], None]:
    def change(broken: onnx.GraphProto) -> None:
        node = next(node for node in broken.node if node.name == name)
        node.op_type = operator
        del node.attribute[:]

    return change


@pytest.mark.parametrize(
    ("stage", "node", "change"),
    [
        ("encode", "node_conv2d", lambda g: scale_weights(g, "node_conv2d", 1.01)),
        ("encode", "node_leaky_relu_1", replace_operator("node_leaky_relu_1", "Abs")),
        ("encode", "node_add_3", replace_operator("node_add_3", "Sub")),
        ("propagate_forward_1", "node_conv2d_3", lambda g: scale_weights(g, "node_conv2d_3", 0.999)),
        ("propagate_forward_1", "node_leaky_relu_4", replace_operator("node_leaky_relu_4", "Relu")),
    ],
    ids=["first weights", "operator", "last node", "before a custom operator", "after a custom operator"],
)
def test_the_sabotaged_node_is_named(
    plan: Plan, stage: str, node: str, change: Callable[[onnx.GraphProto], None]
) -> None:
    broken = graph(plan, stage)
    change(broken.graph)
    fault = find(plan, broken, stage, 80)
    assert fault is not None
    assert fault.name == node
    assert fault.error.psnr < 80
    assert 1 <= fault.compared <= fault.tensors


def test_graphs_traced_from_pytorch_name_the_node_of_a_plan(plan: Plan) -> None:
    from bsst.calibration.parity.reference import torch_reference
    from tests.networks import small_edge

    reference = torch_reference(small_edge(), plan.manifest)
    broken = onnx.load_from_string(plan.member("encode"))
    scale_weights(broken.graph, "node_conv2d_3", 1.01)
    rng = np.random.default_rng(0)
    given = {spec.name: rng.random(spec.shape, np.float32) for spec in plan.manifest.stage("encode").inputs}
    fault = first_bad_node(broken, reference.graphs("encode"), given, minimum=80, threads=1)
    assert fault is not None
    assert fault.name == "node_conv2d_3"
    assert fault.tensors == len(broken.graph.node)


def test_a_healthy_stage_has_no_bad_node(plan: Plan) -> None:
    assert find(plan, graph(plan, "encode"), "encode", 80) is None


def test_the_node_is_named_in_half_precision_too(plan: Plan) -> None:
    lowered = lower(graph(plan, "propagate_forward_1"))
    half = to_half(lowered, "float16", half_tensors=feature_tensors(lowered))
    assert find(plan, half, "propagate_forward_1", 40) is None
    scale_weights(half.graph, "node_conv2d_3", 0.9)
    fault = find(plan, half, "propagate_forward_1", 40)
    assert fault is not None
    assert fault.name == "node_conv2d_3"
    assert fault.tensors > 100


def test_a_tensor_of_another_shape_or_with_nan_is_bad(plan: Plan) -> None:
    broken = graph(plan, "encode")
    replace_operator("node_leaky_relu_1", "Log")(broken.graph)
    fault = find(plan, broken, "encode", -1000)
    assert fault is not None
    assert fault.name == "node_leaky_relu_1"
    assert fault.error.not_finite > 0


def figures(name: str, isolated: StageError, accumulated: StageError) -> StageFigures:
    return StageFigures(name=name, isolated=isolated, accumulated=accumulated, steps=(), worst_inputs={})


def test_a_stage_broken_by_itself_comes_before_earlier_drift() -> None:
    stages = (
        figures("encode", GOOD, GOOD),
        figures("propagate_forward_1", GOOD, StageError(60.0)),
        figures("fuse", StageError(70.0), StageError(50.0)),
        figures("decode", StageError(30.0), StageError(30.0)),
    )
    culprit = first_bad_stage(stages, 80)
    assert culprit is not None
    assert (culprit.stage, culprit.inputs, culprit.error.psnr) == ("fuse", "reference", 70.0)
    drifting = first_bad_stage(stages[:2], 80)
    assert drifting is not None
    assert (drifting.stage, drifting.inputs) == ("propagate_forward_1", "plan")
    assert first_bad_stage(stages[:2], 50) is None


def test_changed_tables_count_in_single_precision_and_broken_values_always() -> None:
    tables = figures("refine", StageError(200.0, entries_changed=1), GOOD)
    stages = (figures("encode", GOOD, GOOD), tables)
    assert first_bad_stage(stages, 0).stage == "refine"  # type: ignore[union-attr]
    assert first_bad_stage(stages, 0, exact_tables=False) is None
    assert not tensor_error(np.ones(3, np.float32), np.array([1, np.inf, 1], np.float32)).within(-1000)
    assert tensor_error(np.arange(4), np.array([0, 1, 3, 3])).entries_changed == 1
    assert tensor_error(np.zeros(3, np.float32), np.zeros(3, np.float32)).psnr == 200


def test_graphs_cast_inputs_and_results_to_the_types_around_them(plan: Plan) -> None:
    lowered = lower(graph(plan, "restore"))
    half = GraphSession(
        to_half(lowered, "float16", half_tensors=feature_tensors(lowered)).SerializeToString(), threads=1
    )
    whole = GraphSession(graph(plan, "restore").SerializeToString(), threads=1)
    results = {}
    for name, session in (("half", half), ("whole", whole)):
        results[name] = np.full((1, 3, *plan.manifest.tile), np.nan, np.float32)
        session.run(inputs(plan, "restore"), {"sharp": results[name]})
    assert 40 < tensor_error(results["whole"], results["half"]).psnr < 150
