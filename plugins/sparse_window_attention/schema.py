"""Sparse window attention over fixed index tables: names, dtypes, shape rule, tolerances."""

from __future__ import annotations

from collections.abc import Sequence

from bsst.errors import UsageError
from bsst.plugins.operator_schema import AttributeSpec, OperandSpec, OperatorSchema, Tolerance

__all__ = ["SCHEMA", "output_shape"]

SCHEMA = OperatorSchema(
    name="sparse_window_attention",
    op_type="BsstSparseWindowAttention",
    inputs=(
        OperandSpec(name="query", dtype="feature", axes="(T, Ht, Wt, C): head-major channels"),
        OperandSpec(name="key", dtype="feature", axes="(T, Ht * Wt + P, C): grid tokens row-major, then pooled tokens"),
        OperandSpec(name="value", dtype="feature", axes="(T, Ht * Wt + P, C)"),
        OperandSpec(name="query_frames", dtype="int32", axes="(G, m): frames whose windows group G computes"),
        OperandSpec(name="key_frames", dtype="int32", axes="(G, m): frames an active group attends to"),
        OperandSpec(name="active", dtype="int32", axes="(G,): 0 or 1"),
    ),
    output=OperandSpec(name="y", dtype="feature", axes="(T, Ht, Wt, C)"),
    attributes=(
        AttributeSpec(name="heads", meaning="attention heads; divides C"),
        AttributeSpec(name="window", meaning="window side in tokens; even, divides Ht and Wt"),
        AttributeSpec(name="expandable_groups", meaning="leading groups of a window that may be active"),
    ),
    tolerance=Tolerance(
        float32=1e-6,
        float16=2e-3,
        reason="outputs are weighted means of values; float32: order of sums. float16: probabilities enter the second "
        "product with 11 bits, and the result is rounded once",
    ),
)


def output_shape(
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    query_frames: Sequence[int],
    key_frames: Sequence[int],
    active: Sequence[int],
    *,
    heads: int,
    window: int,
    expandable_groups: int,
) -> tuple[int, int, int, int]:
    """Shape of y from the input shapes.

    Raises:
        UsageError: the shapes do not fit each other or the attributes.
    """
    if len(query) != 4 or len(key) != 3 or len(query_frames) != 2:
        raise UsageError(
            f"expected query (T, Ht, Wt, C), key (T, Ht * Wt + P, C), query_frames (G, m), "
            f"got {tuple(query)}, {tuple(key)}, {tuple(query_frames)}"
        )
    frames, height, width, channels = query
    if window % 2 or height % window or width % window or channels % heads:
        raise UsageError(
            f"expected an even window that divides Ht and Wt and heads that divide C, "
            f"got query {tuple(query)}, {window = }, {heads = }"
        )
    if key[0] != frames or key[1] < height * width or key[2] != channels or tuple(value) != tuple(key):
        raise UsageError(
            f"expected key and value ({frames}, {height * width} + P, {channels}), got {tuple(key)}, {tuple(value)}"
        )
    groups, group_frames = query_frames
    windows = (height // window) * (width // window)
    if groups * group_frames != frames * windows or groups % windows or not 1 <= expandable_groups <= groups // windows:
        raise UsageError(
            f"expected index tables in which each of {windows} windows has every one of {frames} frames once and "
            f"expandable_groups from 1 to its groups, got query_frames {tuple(query_frames)}, {expandable_groups = }"
        )
    if tuple(key_frames) != tuple(query_frames) or tuple(active) != (groups,):
        raise UsageError(
            f"expected key_frames {tuple(query_frames)} and active ({groups},), got {tuple(key_frames)}, "
            f"{tuple(active)}"
        )
    return frames, height, width, channels
