"""Grouped convolutions for SM 7.5 mean the same, and make no tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from bsst.calibration.precision.widen_groups import LEAST_CHANNELS, widen_groups
from bsst.engines.builder import BuildOptions, StageGraph
from bsst.engines.tensorrt_rtx import TensorRTRTXBuilder


def grouped(channels: int, outputs: int, groups: int, *, kind: str = "float", users: int = 1) -> onnx.ModelProto:
    """`users` convolutions of one grouped weight, summed."""
    nodes = "\n".join(f"y{n} = Conv <group={groups}, pads=[1,1,1,1]> (x, w)" for n in range(users))
    total = "y0" if users == 1 else "Add (y0, y1)"
    model = parser.parse_model(f"""
        <ir_version: 9, opset_import: ["" : 19]>
        stage ({kind}[2,{channels},7,5] x) => ({kind}[2,{outputs},7,5] y) {{
          {nodes}
          y = {total if users > 1 else "Identity (y0)"}
        }}""")
    dtype = np.float16 if kind == "float16" else np.float32
    weight = np.random.default_rng(channels).normal(0, 1, (outputs, channels // groups, 3, 3)).astype(dtype)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize(
    ("channels", "outputs", "groups", "left"),
    [(36, 36, 36, 4), (36, 72, 36, 4), (12, 12, 3, 1), (64, 64, 64, 8), (14, 28, 7, 1), (6, 6, 6, 1), (32, 8, 4, 4)],
)
def test_outputs_keep_their_own_channels(channels: int, outputs: int, groups: int, left: int) -> None:
    model = grouped(channels, outputs, groups)
    wide = widen_groups(model)
    (convolution,) = (node for node in wide.graph.node if node.op_type == "Conv")
    assert {a.name: a.i for a in convolution.attribute}["group"] == left
    assert left == 1 or channels // left >= LEAST_CHANNELS
    x = np.random.default_rng(1).normal(0, 1, (2, channels, 7, 5)).astype(np.float32)
    np.testing.assert_allclose(run(wide, x), run(model, x), rtol=0, atol=1e-5)


def test_plain_convolutions_stay_as_they_are() -> None:
    model = grouped(8, 4, 1)
    assert widen_groups(model) == model


def test_a_weight_of_two_convolutions_is_widened_once_and_the_old_one_is_dropped() -> None:
    wide = widen_groups(grouped(16, 16, 16, users=2))
    assert len(wide.graph.initializer) == 1
    assert len({node.input[1] for node in wide.graph.node if node.op_type == "Conv"}) == 1


def test_the_pass_leaves_its_input_alone() -> None:
    model = grouped(16, 16, 16)
    before = model.SerializeToString(deterministic=True)
    widen_groups(model)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.needs_rtx
def test_no_tables_are_stored_for_turing(tmp_path: Path) -> None:
    """The reason for the pass; fails once the compiler is mended."""
    model = parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 19]>
        stage (float16[4,64,64,64] x) => (float16[4,64,64,64] y) { y = Conv <group=64, pads=[1,1,1,1]> (x, w) }""")
    weight = np.random.default_rng(0).normal(0, 1, (64, 1, 3, 3)).astype(np.float16)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    options = BuildOptions(compute_capabilities=("7.5",), work_directory=tmp_path)
    sizes = [
        TensorRTRTXBuilder().build(StageGraph(name="c", model=graph.SerializeToString()), options).facts["weight_bytes"]
        for graph in (model, widen_groups(model))
    ]
    assert sizes[0] > 10e6
    assert sizes[1] < 0.1e6
