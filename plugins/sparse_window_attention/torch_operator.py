"""Sparse window attention over fixed index tables: the `torch.library` operator and the function that networks call."""

from __future__ import annotations

import torch
from torch import Tensor

from bsst.plugins.sparse_window_attention.both_ways import both_ways
from bsst.plugins.sparse_window_attention.reference import reference
from bsst.plugins.sparse_window_attention.schema import output_shape

__all__ = ["sparse_window_attention"]


def sparse_window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_frames: Tensor,
    key_frames: Tensor,
    active: Tensor,
    *,
    heads: int,
    window: int = 8,
    expandable_groups: int = 1,
) -> Tensor:
    """Attend within windows of groups of frames; differentiable, and one node under `torch.export`.

    Groups are window-major: group g belongs to window g // (G / windows), windows row-major. Each window has
    every frame in exactly one group, so every output is written.

    Args:
        query: (T, Ht, Wt, C), float32 or float16, head-major channels.
        key: (T, Ht * Wt + P, C), dtype of `query`: grid tokens row-major, then P pooled tokens (P may be 0).
        value: (T, Ht * Wt + P, C), dtype of `query`.
        query_frames: (G, m), int32, frames whose own-window tokens are the queries of a group.
        key_frames: (G, m), int32, frames whose neighbourhood and pooled tokens an active group attends to.
        active: (G,), int32, 0 or 1; an inactive group attends to the own window of its query frames.
        heads: attention heads; the scale is 1 / sqrt(C / heads).
        window: window side in tokens, even, dividing Ht and Wt.
        expandable_groups: only the first so many groups of a window may be active; `active` is ignored elsewhere.

    Returns:
        (T, Ht, Wt, C), dtype of `query`.

    Raises:
        UsageError: shapes that do not fit each other.
    """
    attributes = {"heads": heads, "window": window, "expandable_groups": expandable_groups}
    _check(query, key, value, query_frames, key_frames, active, **attributes)
    if torch.compiler.is_exporting():
        result: Tensor = torch.ops.bsst.sparse_window_attention(
            query, key, value, query_frames, key_frames, active, **attributes
        )
        return result
    # To ask a GPU which groups are active stops the host; a CPU does less work when it asks.
    compute = reference if query.device.type == "cpu" else both_ways
    return compute(query, key, value, query_frames, key_frames, active, **attributes)


@torch.library.custom_op("bsst::sparse_window_attention", mutates_args=())
def _operator(
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
) -> Tensor:
    return reference(
        query,
        key,
        value,
        query_frames,
        key_frames,
        active,
        heads=heads,
        window=window,
        expandable_groups=expandable_groups,
    )


@_operator.register_fake
def _fake(query: Tensor, *tensors: Tensor, **attributes: int) -> Tensor:
    return query.new_empty(_check(query, *tensors, **attributes))


def _check(*tensors: Tensor, **attributes: int) -> tuple[int, int, int, int]:
    query, key, value, query_frames, key_frames, active = (tensor.shape for tensor in tensors)
    return output_shape(query, key, value, query_frames, key_frames, active, **attributes)
