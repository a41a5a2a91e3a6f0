# mypy: ignore-errors
# Script bodies are graphs in Python syntax; onnxscript checks them when it compiles them.
"""Sparse window attention as one ONNX function of standard operators, opset 19, softmax in float32.

Every group attends to its own windows; the expandable groups also, densely, to the wide set of their key frames;
a row of the result is then picked from one or the other. So there is no control flow and no data-dependent shape,
and a group that can never be active costs nothing beyond its own windows. Index tables of constant frames fold
to constants. Rows are gathered once, from tensors already laid out by head.
"""

from __future__ import annotations

import onnx
import onnxscript
from onnxscript import opset19 as op
from onnxscript.values import Opset

from bsst.plugins.operator_schema import DOMAIN, VERSION

__all__ = ["portable"]

_domain = Opset(DOMAIN, VERSION)
_FLOAT = onnx.TensorProto.FLOAT
_INT64 = onnx.TensorProto.INT64


@onnxscript.script(_domain, default_opset=op)
def portable(query, key, value, query_frames, key_frames, active, heads: int, window: int, expandable_groups: int):
    """Attend; w = window, e = expandable groups, n = windows, r = groups per window, d = C / heads."""
    frames = op.Shape(query, start=0, end=1)
    height = op.Shape(query, start=1, end=2)
    width = op.Shape(query, start=2, end=3)
    channels = op.Shape(query, start=3, end=4)
    grid_tokens = height * width
    frame_tokens = op.Shape(key, start=1, end=2) + 1  # and the zero token, last
    head_count = op.Reshape(op.Constant(value_int=heads), [1])
    side = op.Reshape(op.Constant(value_int=window), [1])
    expandable = op.Reshape(op.Constant(value_int=expandable_groups), [1])
    down = height / side
    across = width / side
    windows = down * across
    group_frames = op.Shape(query_frames, start=1, end=2)

    # Tokens of each window (n, 1, 1, w^2) and of its neighbourhood with the pooled ones (n, 1, 1, 4 w^2 + P).
    numbers = op.Reshape(op.Range(0, op.Squeeze(grid_tokens), 1), op.Concat(height, width, axis=0))
    split = op.Reshape(numbers, op.Concat(down, side, across, side, axis=0))
    own = op.Reshape(op.Transpose(split, perm=[0, 2, 1, 3]), op.Concat(windows, [1, 1, -1], axis=0))
    half = side / 2
    bordered = op.Pad(numbers, op.Concat(half, half, half, half, axis=0), op.Squeeze(frame_tokens - 1))
    span = op.Unsqueeze(op.Range(0, op.Squeeze(side * 2), 1), [0])
    wide_rows = op.Unsqueeze(op.Range(0, op.Squeeze(height), op.Squeeze(side)), [1]) + span
    wide_columns = op.Unsqueeze(op.Range(0, op.Squeeze(width), op.Squeeze(side)), [1]) + span
    around = op.Gather(op.Gather(bordered, wide_rows, axis=0), wide_columns, axis=2)  # (down, 2 w, across, 2 w)
    ring = op.Reshape(op.Transpose(around, perm=[0, 2, 1, 3]), op.Concat(windows, [1, 1, -1], axis=0))
    pooled = op.Range(op.Squeeze(grid_tokens), op.Squeeze(frame_tokens - 1), 1)
    shared = op.Expand(op.Reshape(pooled, [1, 1, 1, -1]), op.Concat(windows, [1, 1, 1], axis=0))
    wide = op.Concat(ring, shared, axis=-1)

    # Flat rows: which tokens each group reads; (n, r, m, 1) frames and (n, e, m, 1) attended frames.
    table = op.Concat(windows, [-1], group_frames, [1], axis=0)
    own_frames = op.Reshape(op.Cast(query_frames, to=_INT64), table)
    attended = op.Slice(op.Reshape(op.Cast(key_frames, to=_INT64), table), [0], expandable, [1])
    query_rows = op.Reshape(
        own_frames * grid_tokens + own, op.Concat(windows, [-1], group_frames * side * side, axis=0)
    )
    expanded_rows = op.Slice(query_rows, [0], expandable, [1])  # (n, e, m w^2)
    key_rows = own_frames * frame_tokens + own
    wide_key_rows = attended * frame_tokens + wide

    # By head: (heads, rows, d).
    by_head = op.Concat([-1], head_count, channels / head_count, axis=0)
    zero = op.CastLike(op.Expand(0.0, op.Concat(frames, [1], channels, axis=0)), key)
    scale = op.Sqrt(op.Cast(channels / head_count, to=_FLOAT))
    queries = op.Transpose(op.Reshape(query / op.CastLike(scale, query), by_head), perm=[1, 0, 2])
    keys = op.Transpose(op.Reshape(op.Concat(key, zero, axis=1), by_head), perm=[1, 0, 2])
    values = op.Transpose(op.Reshape(op.Concat(value, zero, axis=1), by_head), perm=[1, 0, 2])

    # Every group inside itself; (heads, n r, m w^2, d).
    flat_queries = op.Reshape(query_rows, op.Concat([-1], group_frames * side * side, axis=0))
    flat_keys = op.Reshape(key_rows, op.Concat([-1], group_frames * side * side, axis=0))
    logits = op.MatMul(
        op.Gather(queries, flat_queries, axis=1),
        op.Transpose(op.Gather(keys, flat_keys, axis=1), perm=[0, 1, 3, 2]),
    )
    weights = op.CastLike(op.Softmax(op.Cast(logits, to=_FLOAT), axis=-1), value)
    inside = op.MatMul(weights, op.Gather(values, flat_keys, axis=1))

    # The expandable groups over the wide set; (heads, n e, m w^2, d).
    wide_queries = op.Reshape(expanded_rows, op.Concat([-1], group_frames * side * side, axis=0))
    wide_keys = op.Reshape(wide_key_rows, op.Concat(windows * expandable, [-1], axis=0))
    wide_logits = op.MatMul(
        op.Gather(queries, wide_queries, axis=1),
        op.Transpose(op.Gather(keys, wide_keys, axis=1), perm=[0, 1, 3, 2]),
    )
    wide_weights = op.CastLike(op.Softmax(op.Cast(wide_logits, to=_FLOAT), axis=-1), value)
    outside = op.MatMul(wide_weights, op.Gather(values, wide_keys, axis=1))

    # Row of the joint result that each token takes.
    rows = op.Concat(
        op.Reshape(op.Transpose(inside, perm=[1, 2, 0, 3]), op.Concat([-1], channels, axis=0)),
        op.Reshape(op.Transpose(outside, perm=[1, 2, 0, 3]), op.Concat([-1], channels, axis=0)),
        axis=0,
    )
    total = frames * grid_tokens
    inside_numbers = op.Reshape(op.Range(0, op.Squeeze(total), 1), op.Shape(query_rows))
    outside_total = op.ReduceProd(op.Shape(expanded_rows))
    outside_numbers = op.Reshape(
        op.Range(op.Squeeze(total), op.Squeeze(total + outside_total), 1), op.Shape(expanded_rows)
    )
    flags = op.Slice(op.Reshape(op.Cast(active, to=_INT64), op.Concat(windows, [-1, 1], axis=0)), [0], expandable, [1])
    chosen = op.Where(flags > 0, outside_numbers, op.Slice(inside_numbers, [0], expandable, [1]))
    base = op.ScatterElements(
        op.Expand(0, total), op.Reshape(query_rows, [-1]), op.Reshape(inside_numbers, [-1]), axis=0
    )
    source = op.ScatterElements(base, op.Reshape(expanded_rows, [-1]), op.Reshape(chosen, [-1]), axis=0)
    return op.Reshape(op.Gather(rows, source, axis=0), op.Shape(query))
