"""Sparse window attention in plain PyTorch without a choice by data: a GPU is never asked which groups are active.

The groups that may be active are computed both ways and one result is taken, at most four times the work of
`reference.py` for them; in return no shape depends on data, so the host never waits and a CUDA graph can be captured.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bsst.plugins.device_tables import device_table
from bsst.plugins.sparse_window_attention.reference import own_table, wide_table

__all__ = ["both_ways"]


def both_ways(
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
    """Arguments and result as in `schema.SCHEMA`; computed in float32 or as autocast says, returned as `query`."""
    frames, height, width, channels = query.shape
    places, length = height * width, key.shape[1] + 1
    own = device_table(own_table, height, width, window, device=query.device)
    wide = device_table(wide_table, height, width, window, key.shape[1] - places, device=query.device)

    def by_window(table: Tensor) -> Tensor:
        return table.long().unflatten(0, (len(own), -1))  # (windows, groups, m)

    def rows(chosen: Tensor, tokens: Tensor, tokens_per_frame: int) -> Tensor:
        return (chosen[..., None] * tokens_per_frame + tokens[:, None, None, :]).flatten(2)

    def split(x: Tensor, at: Tensor) -> Tensor:
        return x[at.flatten(0, 1)].unflatten(-1, (heads, -1)).transpose(1, 2)  # (groups, heads, tokens, C / heads)

    dtype = query.dtype
    device = query.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):  # it would halve them again
        query, key, value = (x.float() for x in (query, key, value))
    queries = query.reshape(frames * places, channels)
    keys, values = (F.pad(x, (0, 0, 0, 1)).flatten(0, 1) for x in (key, value))  # zero token at the end

    def attend(at: Tensor, attended: Tensor) -> Tensor:
        result = F.scaled_dot_product_attention(split(queries, at), split(keys, attended), split(values, attended))
        return result.transpose(1, 2).flatten(2).unflatten(0, at.shape[:2])  # (windows, groups, tokens, C)

    group_frames = by_window(query_frames)
    at = rows(group_frames, own, places)
    result = attend(at, rows(group_frames, own, length))
    if expandable_groups:
        leading = slice(0, expandable_groups)
        expanded = attend(at[:, leading], rows(by_window(key_frames)[:, leading], wide, length))
        chosen = (active != 0).unflatten(0, (len(own), -1))[:, leading, None, None]
        result = torch.cat((torch.where(chosen, expanded, result[:, leading]), result[:, expandable_groups:]), 1)
    return (
        result.new_zeros(queries.shape)
        .index_copy(0, at.flatten(), result.reshape(-1, channels))
        .view(query.shape)
        .to(dtype)
    )
