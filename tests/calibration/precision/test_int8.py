from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from bsst.calibration.precision.emulate import emulate_half
from bsst.calibration.precision.int8 import to_int8
from bsst.calibration.precision.int8_placement import INT8_STAGES, cpu_int8_sites, int8_sites
from bsst.calibration.precision.to_half import feature_tensors, precision_shares, to_half
from bsst.errors import ModelError
from bsst.runtime.network.wiring import FLOW_STAGES, calls_of

RNG = np.random.default_rng(3)


def graph(text: str, **weights: Any) -> onnx.ModelProto:
    model = parser.parse_model('<ir_version: 9, opset_import: ["" : 19]>\n' + text)
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    onnx.checker.check_model(model, full_check=True)
    return model


def quantised(model: onnx.ModelProto, high: float = 4.0) -> onnx.ModelProto:
    ranges = {site.tensor: (-high / 2, high) for site in int8_sites(model) if site.axis is None}
    result = to_int8(model, ranges, stage="stage")
    onnx.checker.check_model(result, full_check=True)
    return result


def run(model: onnx.ModelProto, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {name: np.asarray(value, np.float32) for name, value in inputs.items()}))


def integers(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Output of each node that reads dequantised values -> the tensors they were before."""
    produced = {name: node for node in model.graph.node for name in node.output}

    def before(name: str) -> str | None:
        node = produced.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        quantise = produced.get(node.input[0])
        return quantise.input[0] if quantise is not None else name.split("_int8_")[0]

    found = {node.output[0]: tuple(filter(None, map(before, node.input))) for node in model.graph.node}
    return {name: sources for name, sources in found.items() if sources}


RESIDUAL = graph(
    """
    stage (float[1,4,7,9] full, float[1,3,7,9] frame) => (float[1,4,7,9] half, float[1,3,7,9] sharp) {
      a = Conv <pads=[1,1,1,1]> (full, w)
      r = LeakyRelu <alpha=0.1> (a)
      b = Conv <pads=[1,1,1,1]> (r, v, bias)
      half = Add (b, full)
      c = Conv <pads=[1,1,1,1]> (half, u)
      sharp = Add (c, frame)
    }""",
    w=RNG.normal(0, 0.2, (4, 4, 3, 3)),
    v=RNG.normal(0, 0.2, (4, 4, 3, 3)),
    u=RNG.normal(0, 0.2, (3, 4, 3, 3)),
    bias=RNG.normal(0, 0.2, 4),
)


def test_products_take_integers_and_give_floating_point_to_their_activation() -> None:
    model = quantised(RESIDUAL)
    assert integers(model)["a"] == ("full", "w")
    assert integers(model)["b"] == ("r", "v")
    assert "r" not in integers(model)
    kinds = {node.output[0]: node.op_type for node in model.graph.node}
    leaky = next(node for node in model.graph.node if node.op_type == "LeakyRelu")
    assert kinds[leaky.input[0]] == "Conv"


def test_a_residual_is_quantised_only_on_the_side_that_is_not_the_product() -> None:
    assert integers(quantised(RESIDUAL))["half"] == ("full",)


def test_on_a_cpu_convolutions_give_integers_too_and_run_as_such(tmp_path: Path) -> None:
    sites = cpu_int8_sites(RESIDUAL)
    assert [(site.tensor, site.result) for site in sites if site.axis is None] == [
        ("full", False),
        ("a", True),
        ("r", False),
        ("b", True),
    ]
    ranges = {"full": (-2.0, 4.0), "a": (-14.0, 14.0), "r": (-1.4, 14.0), "b": (-14.0, 14.0)}
    model = to_int8(RESIDUAL, ranges, stage="stage", cpu=True)
    onnx.checker.check_model(model, full_check=True)
    assert precision_shares(model) == {"float32": 1 / 3, "int8": 2 / 3}
    full, frame = RNG.uniform(-2, 4, (1, 4, 7, 9)), RNG.uniform(0, 1, (1, 3, 7, 9))
    for want, got in zip(*(run(m, full=full, frame=frame) for m in (RESIDUAL, model)), strict=True):
        assert 1e-4 < np.sqrt(np.mean((got - want) ** 2)) / want.std() < 0.05
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 2
    assert kinds.count("QLinearLeakyRelu") == 1


def test_what_becomes_a_pixel_stays_out() -> None:
    model = quantised(RESIDUAL)
    assert not {"c", "sharp"}.intersection(integers(model))
    assert precision_shares(model) == {"float32": 1 / 3, "int8": 2 / 3}


def test_every_reader_has_a_pair_of_its_own_and_other_readers_see_the_exact_value() -> None:
    model = quantised(
        graph(
            """
            stage (float[1,8,4] full) => (float[1,8,6] half, float[1,8,4] quarter) {
              h = MatMul (full, w)
              k = MatMul (full, v)
              half = Mul (h, k)
              quarter = LayerNormalization <axis=-1> (full, scale)
            }""",
            w=RNG.normal(size=(4, 6)),
            v=RNG.normal(size=(4, 6)),
            scale=np.ones(4),
        )
    )
    assert integers(model) == {"h": ("full", "w"), "k": ("full", "v")}
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) == 2
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    assert norm.input[0] == "full"
    assert "half" not in integers(model)


def test_norms_softmax_attention_coordinates_and_gates_are_never_quantised() -> None:
    model = graph(
        """
        stage (float[1,4,6,6] full, float[1,36,4] tokens) => (float[1,4,6,6] half, float[1,36,4] attended) {
          axes = Constant <value_ints=[2,3]> ()
          m = ReduceMean <keepdims=1> (full, axes)
          g = Conv (m, squeeze)
          s = Sigmoid (g)
          gated = Mul (full, s)
          offset = Conv <pads=[1,1,1,1]> (full, to_grid)
          grid = Transpose <perm=[0,2,3,1]> (offset)
          half = GridSample <mode="bilinear", padding_mode="zeros", align_corners=1> (gated, grid)
          n = LayerNormalization <axis=-1> (tokens, scale)
          k = Transpose <perm=[0,2,1]> (n)
          logits = MatMul (n, k)
          weights = Softmax <axis=-1> (logits)
          attended = MatMul (weights, n)
        }""",
        squeeze=RNG.normal(size=(4, 4, 1, 1)),
        to_grid=RNG.normal(size=(2, 4, 3, 3)),
        scale=np.ones(4),
    )
    assert int8_sites(model) == ()
    assert quantised(model).graph.node == model.graph.node


def test_flow_its_refinement_and_propagation_are_no_int8_stages() -> None:
    stages = {call.stage for call in calls_of(("backward_1", "forward_1", "backward_2", "forward_2"), 5)}
    out = {name for name in stages if name == "refine" or name.startswith("propagate_")}
    assert len(out) == 5
    assert set(INT8_STAGES) == stages - out
    assert not set(INT8_STAGES) & set(FLOW_STAGES)


@pytest.mark.parametrize(
    ("node", "shape", "axis"),
    [
        ("Conv <pads=[1,1,1,1]>", (5, 16, 3, 3), 0),
        ("Conv <pads=[1,1,1,1], group=2>", (6, 8, 3, 3), 0),
        ("ConvTranspose <pads=[1,1,1,1]>", (16, 5, 3, 3), 1),
    ],
)
def test_weights_have_one_scale_per_output_channel(node: str, shape: tuple[int, ...], axis: int) -> None:
    weights = RNG.normal(size=shape).astype(np.float32)
    channels = np.moveaxis(weights, axis, 0)
    channels *= np.geomspace(1e-3, 10, len(channels), dtype=np.float32).reshape(-1, 1, 1, 1)
    count = shape[0] if axis == 0 else shape[1]
    model = quantised(
        graph(f"stage (float[1,16,7,9] full) => (float[1,{count},7,9] half) {{ half = {node} (full, w) }}", w=weights)
    )
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert "w" not in tensors
    (scales,) = (value for name, value in tensors.items() if name.startswith("w_int8") and name.endswith("_scale"))
    (steps,) = (value for name, value in tensors.items() if name.startswith("w_int8") and name.endswith("_integers"))
    assert steps.dtype == np.int8
    assert scales.shape == (count,)
    restored = steps * np.expand_dims(scales, tuple(i for i in range(4) if i != axis))
    assert (
        np.abs(restored - weights) <= np.expand_dims(scales, tuple(i for i in range(4) if i != axis)) * 0.5001
    ).all()
    largest = np.abs(np.moveaxis(steps.astype(int), axis, 0).reshape(count, -1)).max(axis=1)
    assert set(largest) <= {126, 127}
    dequantise = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and "w_int8" in n.output[0])
    assert [a.i for a in dequantise.attribute if a.name == "axis"] == [axis]


@pytest.mark.parametrize(("node", "shape"), [("Conv", (16, 7, 1, 1)), ("ConvTranspose", (14, 8, 1, 1))])
def test_convolutions_of_few_channels_a_group_stay_floating_point(node: str, shape: tuple[int, ...]) -> None:
    text = f"stage (float[1,14,7,9] full) => (float[1,16,7,9] half) {{ half = {node} <group=2> (full, w) }}"
    assert int8_sites(graph(text, w=RNG.normal(size=shape))) == ()


def test_everything_is_symmetric() -> None:
    model = quantised(RESIDUAL)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    zeros = [value for name, value in tensors.items() if name.endswith("_zero")]
    assert len(zeros) == 5
    assert all(value.dtype == np.int8 and not value.any() for value in zeros)


def test_scales_are_numbers_that_float16_holds_so_half_precision_changes_no_integer() -> None:
    tiny = graph(
        "stage (float[1,4,7,9] full) => (float[1,4,7,9] half) { half = Conv <pads=[1,1,1,1]> (full, w) }",
        w=RNG.normal(size=(4, 4, 3, 3)) * np.array([1e-12, 1e-5, 1, 1e3]).reshape(4, 1, 1, 1),
    )
    model = quantised(tiny)
    scales = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("_scale")]
    for scale in scales:
        assert (scale > 0).all()
        np.testing.assert_array_equal(scale.astype(np.float16).astype(np.float32), scale)
    half = to_half(model, "float16", half_tensors=feature_tensors(model))
    onnx.checker.check_model(half, full_check=True)
    assert precision_shares(half) == {"int8": 1.0}
    full = RNG.uniform(-2, 4, (1, 4, 7, 9)).astype(np.float16)
    (exact,), (rounded,) = run(model, full=full), run(emulate_half(half), full=full)
    for channel in range(4):
        largest = np.abs(exact[:, channel]).max()
        np.testing.assert_allclose(rounded[:, channel], exact[:, channel], rtol=0, atol=2e-3 * largest)


def test_int8_is_close_where_ranges_fit_and_saturates_where_they_do_not() -> None:
    full, frame = RNG.uniform(-2, 4, (1, 4, 7, 9)), RNG.uniform(0, 1, (1, 3, 7, 9))
    expected = run(RESIDUAL, full=full, frame=frame)
    close = run(quantised(RESIDUAL, high=10.0), full=full, frame=frame)
    narrow = run(quantised(RESIDUAL, high=0.5), full=full, frame=frame)
    for want, good, bad in zip(expected, close, narrow, strict=True):
        error = np.sqrt(np.mean((good - want) ** 2)) / want.std()
        assert 1e-4 < error < 0.05
        assert np.sqrt(np.mean((bad - want) ** 2)) / want.std() > 10 * error


def test_an_activation_without_a_range_is_refused() -> None:
    with pytest.raises(ModelError, match="stage restore: expected a range of every quantised activation.*none of r;"):
        to_int8(RESIDUAL, {"full": (-1, 1)}, stage="restore")


def test_the_pass_leaves_its_input_alone() -> None:
    before = RESIDUAL.SerializeToString(deterministic=True)
    quantised(RESIDUAL)
    assert RESIDUAL.SerializeToString(deterministic=True) == before


def test_the_largest_integers_do_not_saturate_on_any_processor() -> None:
    text = "stage (float[1,16,7,9] full) => (float[1,8,7,9] half) { half = Conv <pads=[1,1,1,1]> (full, w) }"
    model = graph(text, w=np.ones((8, 16, 3, 3)))
    high = 144.0
    integer = to_int8(model, {"full": (-1.0, 1.0), "half": (-high, high)}, stage="stage", cpu=True)
    full = np.ones((1, 16, 7, 9), np.float32)
    (exact,), (got,) = run(model, full=full), run(integer, full=full)
    assert exact.max() == high
    np.testing.assert_allclose(got, exact, atol=high / 127)
