"""Modulated deformable convolution (DCNv2): names, dtypes, shape rule, tolerances."""

from __future__ import annotations

from collections.abc import Sequence

from bsst.errors import UsageError
from bsst.plugins.operator_schema import AttributeSpec, OperandSpec, OperatorSchema, Tolerance

__all__ = ["SCHEMA", "output_shape"]

SCHEMA = OperatorSchema(
    name="modulated_deform_conv",
    op_type="BsstModulatedDeformConv",
    inputs=(
        OperandSpec(name="x", dtype="feature", axes="(N, C, H, W)"),
        OperandSpec(
            name="offset",
            dtype="float32",
            axes="(N, offset_groups * kh * kw * 2, Ho, Wo): pixels of x; group major, taps row-major, dy before dx",
        ),
        OperandSpec(name="mask", dtype="float32", axes="(N, offset_groups * kh * kw, Ho, Wo): factor of each sample"),
        OperandSpec(name="weight", dtype="feature", axes="(O, C / groups, kh, kw)"),
        OperandSpec(name="bias", dtype="feature", axes="(O,)"),
    ),
    output=OperandSpec(name="y", dtype="feature", axes="(N, O, Ho, Wo)"),
    attributes=(
        AttributeSpec(name="strides", length=2, meaning="step of the kernel: rows, columns"),
        AttributeSpec(name="pads", length=4, meaning="zeros around x: top, left, bottom, right"),
        AttributeSpec(name="dilations", length=2, meaning="distance of the taps: rows, columns"),
        AttributeSpec(name="groups", meaning="channel groups of the weight"),
        AttributeSpec(name="offset_groups", meaning="channel groups of x that share one set of offsets"),
    ),
    tolerance=Tolerance(
        float32=1e-5,
        float16=3e-3,
        reason="float32: order of sums over C * kh * kw products, and coordinates rounded at 2^-24 of the map side. "
        "float16: samples, weights and outputs carry 11 bits, sums and coordinates stay float32",
    ),
)


def output_shape(
    x: Sequence[int],
    offset: Sequence[int],
    mask: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int],
    *,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    offset_groups: int,
) -> tuple[int, int, int, int]:
    """Shape of y from the input shapes.

    Raises:
        UsageError: the shapes do not fit each other or the attributes.
    """
    if len(x) != 4 or len(weight) != 4:
        raise UsageError(f"expected x (N, C, H, W) and weight (O, C / groups, kh, kw), got {tuple(x)}, {tuple(weight)}")
    batch, channels, height, width = x
    out_channels, group_channels, kernel_h, kernel_w = weight
    if channels != group_channels * groups or out_channels % groups or channels % offset_groups:
        raise UsageError(
            f"expected weight (O, {channels} / groups, kh, kw) with groups dividing O and offset_groups dividing "
            f"{channels}, got weight {tuple(weight)}, {groups = }, {offset_groups = }; change the groups"
        )
    top, left, bottom, right = pads
    out_h = (height + top + bottom - dilations[0] * (kernel_h - 1) - 1) // strides[0] + 1
    out_w = (width + left + right - dilations[1] * (kernel_w - 1) - 1) // strides[1] + 1
    taps = kernel_h * kernel_w * offset_groups
    expected = {
        "offset": (batch, taps * 2, out_h, out_w),
        "mask": (batch, taps, out_h, out_w),
        "bias": (out_channels,),
    }
    for (name, shape), got in zip(expected.items(), (offset, mask, bias), strict=True):
        if tuple(got) != shape:
            raise UsageError(f"expected {name} of shape {shape}, got {tuple(got)}; see the axes in SCHEMA.inputs")
    return batch, out_channels, out_h, out_w
