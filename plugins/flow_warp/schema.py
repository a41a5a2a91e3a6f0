"""Backward warp by a flow: names, dtypes, shape rule, tolerances."""

from __future__ import annotations

from collections.abc import Sequence

from bsst.errors import UsageError
from bsst.plugins.operator_schema import AttributeSpec, OperandSpec, OperatorSchema, Tolerance

__all__ = ["SCHEMA", "output_shape"]

SCHEMA = OperatorSchema(
    name="flow_warp",
    op_type="BsstFlowWarp",
    inputs=(
        OperandSpec(name="x", dtype="feature", axes="(N, C, H, W)"),
        OperandSpec(name="flow", dtype="float32", axes="(N, 2, H, W): pixels; channel 0 right, channel 1 down"),
    ),
    output=OperandSpec(name="y", dtype="feature", axes="(N, C, H, W)"),
    attributes=(
        AttributeSpec(name="channels", meaning="C again: the group count of the convolution that a CPU runs instead"),
    ),
    tolerance=Tolerance(
        float32=1e-5,
        float16=1e-3,
        reason="float32: coordinates are rounded at 2^-24 of the map side. float16: one rounding of the result",
    ),
)


def output_shape(x: Sequence[int], flow: Sequence[int], *, channels: int) -> tuple[int, int, int, int]:
    """Shape of y from the input shapes.

    Raises:
        UsageError: the flow is not on the grid of x.
    """
    if len(x) != 4 or tuple(flow) != (x[0], 2, *x[2:]) or channels != x[1]:
        raise UsageError(
            f"expected x (N, {channels}, H, W) and flow (N, 2, H, W), got {tuple(x)} and {tuple(flow)}; "
            f"bring the flow to the grid of x"
        )
    return x[0], x[1], x[2], x[3]
