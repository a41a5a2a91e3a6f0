"""Each rule of the graph lint refuses a graph that breaks only that rule."""

import onnx
import onnx.parser
import pytest

from bsst.errors import ExportError
from bsst.export.lint import lint

GOOD = """
<ir_version: 9, opset_import: ["" : 19]>
agraph (float[1, 2, 4, 4] x, float[1, 4, 4, 2] grid) => (float[1, 2, 4, 4] y)
{ y = GridSample <mode = "bilinear", align_corners = 1> (x, grid) }
"""


def test_good_graph_passes() -> None:
    lint(onnx.parser.parse_model(GOOD), "good")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"" : 19', '"" : 20', "expected opset 19, got 20"),
        ('mode = "bilinear"', 'mode = "linear"', "GridSample mode"),
        ('["" : 19]', '["" : 19, "com.example" : 1]', "domains"),
        ("float[1, 2, 4, 4] x", "float[N, 2, 4, 4] x", "static shapes"),
        (
            'y = GridSample <mode = "bilinear", align_corners = 1> (x, grid)',
            "places = NonZero (x) \n y = Identity (x)",
            "no data-dependent shape",
        ),
    ],
)
def test_broken_rule_is_named(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ExportError, match=message):
        lint(onnx.parser.parse_model(GOOD.replace(old, new)), "broken")


def test_control_flow_is_refused() -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 19]>
    agraph (bool[1] c, float[2] x) => (float[2] y)
    { y = If (c) <then_branch = g1 () => (float[2] a) { a = Identity (x) },
                  else_branch = g2 () => (float[2] b) { b = Neg (x) }> }
    """
    with pytest.raises(ExportError, match="no control flow"):
        lint(onnx.parser.parse_model(text), "branching")


def test_uneven_pads_of_deformable_convolution_are_refused() -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 19]>
    agraph (float[1, 2, 4, 4] x, float[2, 2, 3, 3] w, float[1, 18, 3, 4] offset) => (float[1, 2, 3, 4] y)
    { y = DeformConv <kernel_shape = [3, 3], pads = [1, 1, 0, 1]> (x, w, offset) }
    """
    with pytest.raises(ExportError, match="equal begin and end pads"):
        lint(onnx.parser.parse_model(text), "uneven")
