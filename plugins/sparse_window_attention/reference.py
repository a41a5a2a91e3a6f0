"""Sparse window attention in plain PyTorch: the truth for every lowering, and what training runs.

An active group attends to the neighbourhood (own window, ring of half a window) and the pooled tokens of its key
frames; any other group attends to the own window of its own frames. Tokens outside the grid are zero vectors that
stay in the softmax. Source: Zhang et al., "Blur-aware Spatio-temporal Sparse Transformer", section 3.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bsst.plugins.device_tables import device_table
from bsst.plugins.sparse_window_attention.tokens import own_tokens, wide_tokens

__all__ = ["own_table", "reference", "wide_table"]


def reference(
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
    """Arguments and result as in `schema.SCHEMA`; computed in float32, returned in the dtype of `query`."""
    frames, height, width, channels = query.shape
    pooled = key.shape[1] - height * width
    own = device_table(own_table, height, width, window, device=query.device)
    wide = device_table(wide_table, height, width, window, pooled, device=query.device)
    groups_per_window = len(query_frames) // len(own)
    group = torch.arange(len(query_frames), device=query.device)
    expanded = (active != 0) & (group % groups_per_window < expandable_groups)

    queries = query.float().reshape(frames * height * width, channels)
    keys, values = (F.pad(x.float(), (0, 0, 0, 1)).flatten(0, 1) for x in (key, value))  # zero token at the end
    result = torch.zeros_like(queries)
    for chosen, tokens, attended in ((expanded, wide, key_frames), (~expanded, own, query_frames)):
        members = torch.nonzero(chosen)[:, 0]
        if len(members) == 0:
            continue
        windows = members // groups_per_window
        rows = _rows(query_frames[members], own[windows], height * width)
        columns = _rows(attended[members], tokens[windows], key.shape[1] + 1)
        attention = F.scaled_dot_product_attention(
            _split(queries, rows, heads), _split(keys, columns, heads), _split(values, columns, heads)
        )
        attention = attention.transpose(1, 2).reshape(-1, channels).to(result.dtype)  # autocast may have halved it
        result = result.index_copy(0, rows.flatten(), attention)
    return result.reshape(query.shape).to(query.dtype)


def own_table(height: int, width: int, window: int) -> Tensor:
    """`own_tokens` as a tensor."""
    return torch.from_numpy(own_tokens(height, width, window))


def wide_table(height: int, width: int, window: int, pooled: int) -> Tensor:
    """`wide_tokens` as a tensor."""
    return torch.from_numpy(wide_tokens(height, width, window, pooled))


def _rows(frames: Tensor, tokens: Tensor, tokens_per_frame: int) -> Tensor:
    """Flat rows (groups, m * tokens) of the given tokens in the given frames."""
    return (frames.long()[:, :, None] * tokens_per_frame + tokens[:, None, :]).flatten(1)


def _split(x: Tensor, rows: Tensor, heads: int) -> Tensor:
    """Gather rows and split heads: (groups, heads, tokens, C / heads)."""
    return x[rows].reshape(*rows.shape, heads, -1).transpose(1, 2)
