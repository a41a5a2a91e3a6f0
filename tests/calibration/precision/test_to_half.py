from __future__ import annotations

from typing import Any, cast, get_args

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper, parser

from bsst.calibration.precision.emulate import emulate_half
from bsst.calibration.precision.policy import value_types
from bsst.calibration.precision.to_half import HalfType, feature_tensors, precision_shares, to_half
from bsst.errors import ExportError

HEADER = '<ir_version: 9, opset_import: ["" : 19]>\n'


def graph(text: str, **weights: Any) -> onnx.ModelProto:
    model = parser.parse_model(HEADER + text)
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    types = {"tensor(float16)": np.float16, "tensor(float)": np.float32}
    return list(session.run(None, {i.name: inputs[i.name].astype(types[i.type]) for i in session.get_inputs()}))


def dtypes(model: onnx.ModelProto) -> dict[str, str]:
    """Element type of the first output of every node, by operator; a set of them where there are several."""
    types = value_types(model)
    result: dict[str, set[str]] = {}
    for node in model.graph.node:
        result.setdefault(node.op_type, set()).add(TensorProto.DataType.Name(types[node.output[0]]))
    return {op_type: "+".join(sorted(names)) for op_type, names in result.items() if op_type != "Cast"}


RNG = np.random.default_rng(5)

WARP = graph(
    """
    warp (float[1,3,9,1201] frame) => (float[1,4,9,1201] y) {
      f = Conv <pads=[1,1,1,1]> (frame, w)
      r = Relu (f)
      flow = Conv <pads=[1,1,1,1]> (r, v)
      moved = Transpose <perm=[0,2,3,1]> (flow)
      pixels = Add (moved, base)
      scaled = Mul (pixels, scale)
      grid = Sub (scaled, one)
      s = GridSample <mode="bilinear", padding_mode="zeros", align_corners=1> (r, grid)
      y = Conv <pads=[1,1,1,1]> (s, u)
    }""",
    w=RNG.normal(0, 0.3, (4, 3, 3, 3)),
    v=RNG.normal(0, 0.3, (2, 4, 3, 3)),
    u=RNG.normal(0, 0.3, (4, 4, 3, 3)),
    base=np.stack(np.meshgrid(np.arange(1201), np.arange(9), indexing="xy"), -1)[None],
    scale=np.array([2 / 1200, 2 / 8]),
    one=np.float32(1),
)


def test_coordinates_stay_float32_back_to_the_convolution_that_made_them() -> None:
    half = to_half(WARP, "float16")
    assert dtypes(half) == {
        "Conv": "FLOAT16",
        "Relu": "FLOAT16",
        "Transpose": "FLOAT",
        "Add": "FLOAT",
        "Mul": "FLOAT",
        "Sub": "FLOAT",
        "GridSample": "FLOAT",
    }
    assert precision_shares(WARP) == {"float32": 1.0}
    assert precision_shares(half) == {"float16": 1.0}


def test_float16_coordinates_would_cost_twenty_decibels_more() -> None:
    """The reason for the rule: the same graph with its positions rounded to float16."""
    # A smooth picture, as frames are; noise would hide how far off a position is.
    columns = np.arange(1201)[None, None, None, :] * np.array([0.05, 0.11, 0.23])[None, :, None, None]
    frame = np.sin(columns + np.arange(9)[None, None, :, None])
    (expected,) = run(WARP, frame=frame)
    (ours,) = run(emulate_half(to_half(WARP, "float16")), frame=frame)
    careless = onnx.ModelProto()
    careless.CopyFrom(to_half(WARP, "float16"))
    for node in careless.graph.node:
        if node.op_type == "Mul":
            node.input[0] = "rounded_pixels"
        if node.op_type == "Add":
            position = list(careless.graph.node).index(node)
    for name, source, kind in (("half_pixels", "pixels", 10), ("rounded_pixels", "half_pixels", 1)):
        position += 1
        careless.graph.node.insert(position, onnx.helper.make_node("Cast", [source], [name], to=kind))
    (rounded,) = run(emulate_half(careless), frame=frame)
    peak = np.abs(expected).max()

    def psnr(got: NDArray[Any]) -> float:
        return float(10 * np.log10(peak**2 / np.mean((got - expected) ** 2)))

    assert psnr(ours) > 65
    assert psnr(rounded) < psnr(ours) - 20


def test_sensitive_operators_and_integers_stay_as_they_are() -> None:
    model = graph(
        """
        stage (float[5,24] x) => (float[5,5] y, int64[5] best, float[5,24] z) {
          n = LayerNormalization <axis=-1> (x, scale)
          k = Transpose <perm=[1,0]> (n)
          l = MatMul (n, k)
          a = Softmax <axis=-1> (l)
          y = MatMul (a, l)
          best = ArgMax <axis=1, keepdims=0> (l)
          p = MatMul (x, m)
          z = Relu (p)
        }""",
        scale=np.ones(24),
        m=np.eye(24),
    )
    assert dtypes(to_half(model, "float16")) == {
        "LayerNormalization": "FLOAT",
        "Transpose": "FLOAT",
        "MatMul": "FLOAT16",
        "Softmax": "FLOAT",
        "ArgMax": "INT64",
        # Computed from a product for a float32 output, so it is float32.
        "Relu": "FLOAT",
    }


def test_a_residual_of_features_is_float16_and_of_pixels_float32() -> None:
    model = graph(
        """
        stage (float[1,4,7,5] full, float[1,4,7,5] frame) => (float[1,4,7,5] half, float[1,4,7,5] sharp) {
          a = Conv <pads=[1,1,1,1]> (full, w)
          half = Add (a, full)
          b = Conv <pads=[1,1,1,1]> (half, w)
          sharp = Add (b, frame)
        }""",
        w=RNG.normal(0, 0.2, (4, 4, 3, 3)),
    )
    assert feature_tensors(model) == {"full", "half"}
    half = to_half(model, "float16", half_tensors=feature_tensors(model))
    assert dtypes(half) == {"Conv": "FLOAT16", "Add": "FLOAT+FLOAT16"}
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*half.graph.input, *half.graph.output)}
    assert kinds == {"full": 10, "frame": 1, "half": 10, "sharp": 1}
    assert [v.name for v in half.graph.input] == ["full", "frame"]
    assert [v.name for v in half.graph.output] == ["half", "sharp"]


def test_an_output_that_is_also_used_inside_keeps_its_name_and_type() -> None:
    model = graph(
        """
        stage (float[1,4,7,5] x) => (float[1,4,7,5] a, float[1,4,7,5] b) {
          a = Conv <pads=[1,1,1,1]> (x, w)
          r = Relu (a)
          b = Conv <pads=[1,1,1,1]> (r, w)
        }""",
        w=RNG.normal(0, 0.2, (4, 4, 3, 3)),
    )
    x = RNG.normal(size=(1, 4, 7, 5))
    for expected, got in zip(run(model, x=x), run(to_half(model, "float16"), x=x), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=3e-3)


def test_positions_that_become_indices_are_protected() -> None:
    model = graph(
        """
        lookup (float[3,8] x, float[8,8] y) => (float[3,8] z) {
          where = MatMul (x, y)
          position = Add (where, far)
          wrapped = Clip (position, zero, seven)
          index = Cast <to=7> (wrapped)
          table = MatMul (y, y)
          z = GatherElements <axis=0> (table, index)
        }""",
        far=np.float32(3),
        zero=np.float32(0),
        seven=np.float32(7),
    )
    assert dtypes(to_half(model, "float16")) == {
        "MatMul": "FLOAT16",
        "Add": "FLOAT",
        "Clip": "FLOAT",
        "GatherElements": "FLOAT",
    }


def test_a_large_product_is_scaled_before_it_is_summed() -> None:
    model = graph(
        """
        correlate (float[9,4096] a, float[4096,7] b) => (float[9,7] y) {
          p = MatMul (a, b)
          y = Div (p, root)
        }""",
        root=np.float32(64),
    )
    a, b = np.full((9, 4096), 6.0), np.full((4096, 7), 6.0)
    (got,) = run(emulate_half(to_half(model, "float16")), a=a, b=b)
    np.testing.assert_allclose(got, run(model, a=a, b=b)[0], rtol=1e-3)
    assert 6 * 6 * 4096 > 65504


def test_scales_of_resize_stay_float32() -> None:
    model = graph(
        """
        stage (float[1,4,5,3] x) => (float[1,4,10,6] decoded) {
          c = Conv <pads=[1,1,1,1]> (x, w)
          decoded = Resize <mode="linear"> (c, , scales)
        }""",
        w=RNG.normal(0, 0.2, (4, 4, 3, 3)),
        scales=[1, 1, 2, 2],
    )
    half = to_half(model, "float16", half_tensors={"decoded"})
    assert dtypes(half) == {"Conv": "FLOAT16", "Resize": "FLOAT16"}
    assert {t.name: t.data_type for t in half.graph.initializer}["scales"] == TensorProto.FLOAT


def test_custom_operators_take_each_input_as_it_means() -> None:
    text = """<ir_version: 9, opset_import: ["" : 19, "bsst" : 1]>
        stage (float[1,4,6,5] x, float[1,2,6,5] flow) => (float[1,4,6,5] half)
        <float[1,4,6,5] c, float[1,2,6,5] f, float[1,4,6,5] warped> {
          c = Conv <pads=[1,1,1,1]> (x, w)
          f = Add (flow, flow)
          warped = bsst.BsstFlowWarp <channels=4> (c, f)
          half = Relu (warped)
        }"""
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4, 3, 3), np.float32), "w"))
    half = to_half(model, "float16", half_tensors={"half"}, operators={"BsstFlowWarp": ("feature", "float32")})
    warp = next(node for node in half.graph.node if node.op_type == "BsstFlowWarp")
    produced = {name: node for node in half.graph.node for name in node.output}
    assert produced[warp.input[0]].op_type == "Conv"
    assert produced[warp.input[1]].op_type == "Add"
    assert next(n for n in half.graph.node if n.op_type == "Relu").input[0] == warp.output[0]


def test_constants_beyond_float16_are_refused() -> None:
    model = graph("stage (float[2,3] x) => (float[2,4] y) { y = MatMul (x, w) }", w=np.full((3, 4), 1e5))
    with pytest.raises(ExportError, match=r"expected every convolution and matrix product in float16.*65504"):
        to_half(model, "float16")


def test_control_flow_is_refused() -> None:
    model = parser.parse_model(
        HEADER
        + """stage (bool c, float[2] x) => (float[2] y) {
          y = If (c) <
            then_branch = t () => (float[2] a) { a = Relu (x) },
            else_branch = e () => (float[2] b) { b = Abs (x) }>
        }"""
    )
    with pytest.raises(ExportError, match="no control flow, got If"):
        to_half(model, "float16")


def test_the_pass_leaves_its_input_alone() -> None:
    before = WARP.SerializeToString(deterministic=True)
    to_half(WARP, "float16")
    assert WARP.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_both_half_types_follow_the_same_meaning(dtype: HalfType) -> None:
    half = to_half(WARP, dtype)
    name = dtype.upper()
    assert dtypes(half) == {
        "Conv": name,
        "Relu": name,
        **{op: "FLOAT" for op in ("Transpose", "Add", "Mul", "Sub", "GridSample")},
    }
    assert precision_shares(half) == {dtype: 1.0}


def test_bfloat16_costs_eight_times_the_error_of_float16_and_holds_larger_numbers() -> None:
    model = graph(
        "stage (float[1,4,7,5] x) => (float[1,4,7,5] decoded) { decoded = Conv <pads=[1,1,1,1]> (x, w) }",
        w=RNG.normal(0, 0.2, (4, 4, 3, 3)),
    )
    x = RNG.normal(size=(1, 4, 7, 5)).astype(np.float32)
    (expected,) = run(model, x=x)
    errors = {}
    for dtype in get_args(HalfType):
        emulated = emulate_half(to_half(model, dtype, half_tensors={"decoded"}))
        errors[dtype] = float(np.sqrt(np.mean((run(emulated, x=x)[0] - expected) ** 2)))
        large = run(emulated, x=x * 1e6)[0]
        assert np.isfinite(large).all() == (dtype == "bfloat16")
    assert 4 < errors["bfloat16"] / errors["float16"] < 16
    to_half(graph("stage (float[2,3] x) => (float[2,4] y) { y = MatMul (x, w) }", w=np.full((3, 4), 1e5)), "bfloat16")


def test_transposed_convolutions_stay_float32_in_bfloat16_alone() -> None:
    model = graph(
        "stage (float[1,4,7,5] x) => (float[1,4,14,10] decoded) "
        "{ y = Conv <pads=[1,1,1,1]> (x, w) decoded = ConvTranspose <strides=[2,2]> (y, v) }",
        w=RNG.normal(0, 0.2, (4, 4, 3, 3)),
        v=RNG.normal(0, 0.2, (4, 4, 2, 2)),
    )
    for dtype, kept in (("float16", "FLOAT16"), ("bfloat16", "FLOAT")):
        half = to_half(model, cast(HalfType, dtype), half_tensors={"decoded"})
        found = dtypes(half)
        assert (found["Conv"], found["ConvTranspose"]) == (dtype.upper(), kept)
        assert half.graph.output[0].type.tensor_type.elem_type == TensorProto.DataType.Value(dtype.upper())
