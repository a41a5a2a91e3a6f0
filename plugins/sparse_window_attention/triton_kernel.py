"""Sparse window attention as one Triton kernel: online softmax over keys addressed through the frame tables.

Tensors are laid out as in the schema. A program owns some queries of one group and one head and walks over the keys of
that group: 5 times fewer when the group is not active, because the trip count comes from the flag. Logits, softmax
and sums are float32 for any feature type. Limits: fewer than 2^31 elements per tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from bsst.plugins.sparse_window_attention.geometry import Geometry
from bsst.plugins.triton_compile import CompiledKernel, compile_kernel

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["compile_for", "launch", "sparse_window_attention_kernel"]

WARPS, STAGES = 4, 2
"""The shipped variant: less than 48 KB of shared memory for heads of up to 128 channels."""


@triton.jit  # type: ignore[untyped-decorator]
def sparse_window_attention_kernel(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    query_frames,
    key_frames,
    active,
    frames,
    height,
    width,
    y,
    HEADS: tl.constexpr,
    HEAD_CHANNELS: tl.constexpr,
    WINDOW: tl.constexpr,
    POOLED: tl.constexpr,
    GROUP_FRAMES: tl.constexpr,
    EXPANDABLE: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid (queries of a group, groups, heads)."""
    CHANNELS: tl.constexpr = HEADS * HEAD_CHANNELS
    OWN: tl.constexpr = WINDOW * WINDOW
    WIDE: tl.constexpr = 4 * OWN + POOLED
    # Blocks that never straddle frames take one frame number each, and none is partly filled.
    WHOLE: tl.constexpr = (OWN % BLOCK_KEYS == 0) and (WIDE % BLOCK_KEYS == 0)
    SCALE: tl.constexpr = 1.4426950408889634 / (HEAD_CHANNELS**0.5)  # exp2 instead of exp

    group = tl.program_id(1)
    groups_per_window = frames // GROUP_FRAMES
    window = group // groups_per_window
    top = window // (width // WINDOW) * WINDOW
    left = window % (width // WINDOW) * WINDOW
    channel = tl.arange(0, BLOCK_CHANNELS)
    in_head = channel < HEAD_CHANNELS
    head = tl.program_id(2) * HEAD_CHANNELS + channel

    row = tl.program_id(0) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    valid = row < GROUP_FRAMES * OWN
    frame = tl.load(query_frames + group * GROUP_FRAMES + row // OWN, mask=valid, other=0)
    token = (frame * height + top + row % OWN // WINDOW) * width + left + row % WINDOW
    own = token[:, None] * CHANNELS + head[None, :]
    queries = tl.load(query + own, mask=valid[:, None] & in_head[None, :], other=0.0)

    wide = (tl.load(active + group) != 0) & (group % groups_per_window < EXPANDABLE)
    total = tl.where(wide, GROUP_FRAMES * WIDE, GROUP_FRAMES * OWN)
    margin = tl.where(wide, WINDOW // 2, 0)
    largest = tl.full((BLOCK_QUERIES,), -float("inf"), tl.float32)
    weight = tl.zeros((BLOCK_QUERIES,), tl.float32)
    sums = tl.zeros((BLOCK_QUERIES, BLOCK_CHANNELS), tl.float32)
    for start in range(0, total, BLOCK_KEYS):
        number = start + tl.arange(0, BLOCK_KEYS)
        listed = start if WHOLE else tl.minimum(number, total - 1)
        slot = tl.where(wide, listed // WIDE, listed // OWN)
        table = group * GROUP_FRAMES + slot
        key_frame = tl.where(wide, tl.load(key_frames + table), tl.load(query_frames + table))
        local = number - slot * tl.where(wide, WIDE, OWN)
        key_y = top - margin + tl.where(wide, local // (2 * WINDOW), local // WINDOW)
        key_x = left - margin + tl.where(wide, local % (2 * WINDOW), local % WINDOW)
        pooled = local >= 4 * OWN
        inside = (key_y >= 0) & (key_y < height) & (key_x >= 0) & (key_x < width)
        source = tl.where(pooled, height * width + local - 4 * OWN, key_y * width + key_x)
        # Outside the grid: zero vectors, whose logit 0 stays in the softmax.
        loaded = (pooled | inside)[:, None] & in_head[None, :]
        if not WHOLE:
            loaded = loaded & (number < total)[:, None]
        read = (key_frame * (height * width + POOLED) + source)[:, None] * CHANNELS + head[None, :]
        keys = tl.load(key + read, mask=loaded, other=0.0)
        values = tl.load(value + read, mask=loaded, other=0.0)
        logits = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * SCALE
        if not WHOLE:
            logits = tl.where((number < total)[None, :], logits, -float("inf"))
        larger = tl.maximum(largest, tl.max(logits, 1))
        shares = tl.exp2(logits - larger[:, None])
        shrink = tl.exp2(largest - larger)
        weight = weight * shrink + tl.sum(shares, 1)
        sums = tl.dot(shares.to(values.dtype), values, sums * shrink[:, None], input_precision=PRECISION)
        largest = larger

    result = (sums / weight[:, None]).to(y.dtype.element_ty)
    tl.store(y + own, result, mask=valid[:, None] & in_head[None, :])


def launch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_frames: Tensor,
    key_frames: Tensor,
    active: Tensor,
    *,
    heads: int,
    window: int,
    expandable_groups: int,
    out: Tensor,
) -> None:
    """Run the kernel on a GPU, or on a CPU where TRITON_INTERPRET=1.

    Arguments as in the schema, contiguous; `out` is like `query`, and every element of it is written.
    """
    frames, height, width, channels = query.shape
    groups, group_frames = query_frames.shape
    constants = Geometry(
        heads=heads,
        head_channels=channels // heads,
        window=window,
        pooled=key.shape[1] - height * width,
        group_frames=group_frames,
        expandable_groups=expandable_groups,
    ).constants(half=query.element_size() == 2)
    grid = (triton.cdiv(group_frames * window**2, constants["BLOCK_QUERIES"]), groups, heads)
    tensors = (query, key, value, query_frames, key_frames, active)
    sparse_window_attention_kernel[grid](
        *tensors, frames, height, width, out, **constants, num_warps=WARPS, num_stages=STAGES
    )


def compile_for(geometry: Geometry, *, half: bool, capability: int) -> CompiledKernel:
    """Compile the kernel ahead of time; its arguments are the inputs, the sizes and the output, in that order."""
    feature = "*fp16" if half else "*fp32"
    features = dict.fromkeys(("query", "key", "value"), feature)
    tables = dict.fromkeys(("query_frames", "key_frames", "active"), "*i32")
    sizes = dict.fromkeys(("frames", "height", "width"), "i32")
    return compile_kernel(
        sparse_window_attention_kernel,
        arguments={**features, **tables, **sizes, "y": feature},
        constants=geometry.constants(half=half),
        capability=capability,
        warps=WARPS,
        # The matrix units of SM 90 read their operands from shared memory: two steps in flight take all 48 KB.
        stages=1 if half and capability == 90 else STAGES,
    )
