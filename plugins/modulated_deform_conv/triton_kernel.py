"""Modulated deformable convolution as one Triton kernel: an implicit matrix product whose left side is sampled.

Works channels-last, so that the samples of one position are contiguous: x (N, H, W, C), weight (kh, kw, C / groups, O),
y (N, Ho, Wo, O); offset and mask as in the schema. A program owns some output positions and all outputs of a weight
group (up to 192), so each sample is taken once. Coordinates, mask, blending and sums are float32 for any feature type;
blended samples are rounded to the feature type in front of the tensor-core product.
Limits: fewer than 2^31 elements per tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import triton
import triton.language as tl

from bsst.plugins.modulated_deform_conv.geometry import Geometry
from bsst.plugins.triton_compile import CompiledKernel, compile_kernel

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["compile_for", "launch", "modulated_deform_conv_kernel"]

WARPS, STAGES = 4, 3
"""The shipped variant: 25 KB of shared memory or less, samples and weights of two steps copied ahead."""


@triton.jit  # type: ignore[untyped-decorator]
def modulated_deform_conv_kernel(  # type: ignore[no-untyped-def]
    x,
    offset,
    mask,
    weight,
    bias,
    batch,
    height,
    width,
    out_height,
    out_width,
    y,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    GROUPS: tl.constexpr,
    OFFSET_GROUPS: tl.constexpr,
    KERNEL_W: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE_Y: tl.constexpr,
    STRIDE_X: tl.constexpr,
    PAD_Y: tl.constexpr,
    PAD_X: tl.constexpr,
    DILATION_Y: tl.constexpr,
    DILATION_X: tl.constexpr,
    SEGMENT: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    REST_OUTPUTS: tl.constexpr,
    OUTPUT_BLOCKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid (positions, groups * OUTPUT_BLOCKS); a segment is a run of channels that share offsets and weight group."""
    GROUP_CHANNELS: tl.constexpr = CHANNELS // GROUPS
    GROUP_OUTPUTS: tl.constexpr = OUTPUTS // GROUPS
    CHUNKS: tl.constexpr = (SEGMENT + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS

    group = tl.program_id(1) // OUTPUT_BLOCKS
    plane = out_height * out_width
    position = tl.program_id(0) * BLOCK_POSITIONS + tl.arange(0, BLOCK_POSITIONS)
    valid = position < batch * plane
    image = position // plane
    pixel = position % plane
    base_y = (pixel // out_width * STRIDE_Y - PAD_Y).to(tl.float32)
    base_x = (pixel % out_width * STRIDE_X - PAD_X).to(tl.float32)

    lane = tl.arange(0, BLOCK_CHANNELS)
    first = (tl.program_id(1) % OUTPUT_BLOCKS) * (BLOCK_OUTPUTS + REST_OUTPUTS)
    output = first + tl.arange(0, BLOCK_OUTPUTS)
    sums = tl.zeros((BLOCK_POSITIONS, BLOCK_OUTPUTS), tl.float32)
    if REST_OUTPUTS > 0:
        rest = first + BLOCK_OUTPUTS + tl.arange(0, REST_OUTPUTS)
        rest_sums = tl.zeros((BLOCK_POSITIONS, REST_OUTPUTS), tl.float32)

    for step in range(GROUP_CHANNELS // SEGMENT * CHUNKS * TAPS):
        tap = step % TAPS
        chunk = step // TAPS % CHUNKS * BLOCK_CHANNELS
        channel = step // TAPS // CHUNKS * SEGMENT + chunk  # inside the weight group
        used = chunk + lane < SEGMENT
        shared = (group * GROUP_CHANNELS + channel) // (CHANNELS // OFFSET_GROUPS)
        field = (image * OFFSET_GROUPS + shared) * TAPS + tap
        down = tl.load(offset + field * 2 * plane + pixel, mask=valid, other=0.0)
        right = tl.load(offset + (field * 2 + 1) * plane + pixel, mask=valid, other=0.0)
        factor = tl.load(mask + field * plane + pixel, mask=valid, other=0.0)
        source_y = base_y + (tap // KERNEL_W * DILATION_Y).to(tl.float32) + down
        source_x = base_x + (tap % KERNEL_W * DILATION_X).to(tl.float32) + right
        floor_y = tl.floor(source_y)
        floor_x = tl.floor(source_x)
        part_y = source_y - floor_y
        part_x = source_x - floor_x
        # Far coordinates do not fit an integer: clamp to where no corner is inside.
        top = tl.minimum(tl.maximum(floor_y, -2.0), height * 1.0).to(tl.int32)
        left = tl.minimum(tl.maximum(floor_x, -2.0), width * 1.0).to(tl.int32)
        in_top = (top >= 0) & (top < height) & valid
        in_bottom = (top >= -1) & (top < height - 1) & valid
        in_left = (left >= 0) & (left < width)
        in_right = (left >= -1) & (left < width - 1)
        corner = ((image * height + top) * width + left) * CHANNELS + group * GROUP_CHANNELS + channel
        source = x + corner[:, None] + lane[None, :]
        below = width * CHANNELS
        samples = (
            tl.load(source, mask=(in_top & in_left)[:, None] & used[None, :], other=0.0).to(tl.float32)
            * ((1 - part_y) * (1 - part_x) * factor)[:, None]
        )
        samples += (
            tl.load(source + CHANNELS, mask=(in_top & in_right)[:, None] & used[None, :], other=0.0).to(tl.float32)
            * ((1 - part_y) * part_x * factor)[:, None]
        )
        samples += (
            tl.load(source + below, mask=(in_bottom & in_left)[:, None] & used[None, :], other=0.0).to(tl.float32)
            * (part_y * (1 - part_x) * factor)[:, None]
        )
        samples += (
            tl.load(source + below + CHANNELS, mask=(in_bottom & in_right)[:, None] & used[None, :], other=0.0).to(
                tl.float32
            )
            * (part_y * part_x * factor)[:, None]
        )
        left_side = samples.to(x.dtype.element_ty)
        row = weight + (tap * GROUP_CHANNELS + channel + lane)[:, None] * OUTPUTS + group * GROUP_OUTPUTS
        right_side = tl.load(row + output[None, :], mask=used[:, None] & (output < GROUP_OUTPUTS)[None, :], other=0.0)
        sums = tl.dot(left_side, right_side, sums, input_precision=PRECISION)
        if REST_OUTPUTS > 0:
            right_side = tl.load(row + rest[None, :], mask=used[:, None] & (rest < GROUP_OUTPUTS)[None, :], other=0.0)
            rest_sums = tl.dot(left_side, right_side, rest_sums, input_precision=PRECISION)

    row = y + position[:, None] * OUTPUTS + group * GROUP_OUTPUTS
    kept = output < GROUP_OUTPUTS
    sums += tl.load(bias + group * GROUP_OUTPUTS + output, mask=kept, other=0.0).to(tl.float32)[None, :]
    tl.store(row + output[None, :], sums.to(y.dtype.element_ty), mask=valid[:, None] & kept[None, :])
    if REST_OUTPUTS > 0:
        kept = rest < GROUP_OUTPUTS
        rest_sums += tl.load(bias + group * GROUP_OUTPUTS + rest, mask=kept, other=0.0).to(tl.float32)[None, :]
        tl.store(row + rest[None, :], rest_sums.to(y.dtype.element_ty), mask=valid[:, None] & kept[None, :])


def launch(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    offset_groups: int,
    out: Tensor,
) -> None:
    """Run the kernel on a GPU, or on a CPU where TRITON_INTERPRET=1.

    Args:
        x: (N, H, W, C), contiguous; weight, bias and `out` have its dtype.
        offset: as in the schema, contiguous, float32; so is `mask`.
        mask: as in the schema.
        weight: (kh, kw, C / groups, O), contiguous.
        bias: (O,).
        strides: as in the schema; so are the other attributes.
        pads: top, left, bottom, right.
        dilations: rows, columns.
        groups: weight groups.
        offset_groups: offset groups.
        out: (N, Ho, Wo, O), contiguous; every element is written.
    """
    batch, height, width, channels = x.shape
    geometry = Geometry(
        channels=channels,
        outputs=weight.shape[3],
        kernel_shape=(weight.shape[0], weight.shape[1]),
        strides=(strides[0], strides[1]),
        pads=(pads[0], pads[1]),
        dilations=(dilations[0], dilations[1]),
        groups=groups,
        offset_groups=offset_groups,
    )
    constants = geometry.constants(half=x.element_size() == 2)
    grid = (triton.cdiv(out[..., 0].numel(), constants["BLOCK_POSITIONS"]), groups * constants["OUTPUT_BLOCKS"])
    sizes = (batch, height, width, out.shape[1], out.shape[2])
    modulated_deform_conv_kernel[grid](
        x, offset, mask, weight, bias, *sizes, out, **constants, num_warps=WARPS, num_stages=STAGES
    )


def compile_for(geometry: Geometry, *, half: bool, capability: int) -> CompiledKernel:
    """Compile the kernel ahead of time; its arguments are the inputs, the sizes and the output, in that order."""
    feature = "*fp16" if half else "*fp32"
    inputs = {"x": feature, "offset": "*fp32", "mask": "*fp32", "weight": feature, "bias": feature}
    sizes = dict.fromkeys(("batch", "height", "width", "out_height", "out_width"), "i32")
    return compile_kernel(
        modulated_deform_conv_kernel,
        arguments={**inputs, **sizes, "y": feature},
        constants=geometry.constants(half=half),
        capability=capability,
        warps=WARPS,
        stages=STAGES,
    )
