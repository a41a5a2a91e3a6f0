"""The quick simplification loses nothing that the whole optimiser of onnxscript finds in any stage."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.inliner
import onnxscript.optimizer
import pytest

from bsst.plan.archive import open_plan
from bsst.plugins.operator_schema import DOMAIN
from bsst.plugins.registry import OPERATORS, attach_functions, lower

STAGES = ("flow_features", "flow", "encode", "refine", "propagate_forward_1", "fuse", "attend", "decode", "restore")


@pytest.mark.parametrize("stage", STAGES)
def test_a_lowered_stage_is_what_the_whole_optimiser_makes_of_it(cpu_plan: Path, stage: str) -> None:
    model = onnx.load_from_string(open_plan(cpu_plan).member(stage))
    names = [(DOMAIN, schema.op_type) for schema in OPERATORS]
    inlined = onnx.inliner.inline_selected_functions(attach_functions(model), names)
    expected = onnxscript.optimizer.optimize(inlined)
    got = lower(model)
    assert len(got.graph.node) <= len(inlined.graph.node)
    assert got == expected
