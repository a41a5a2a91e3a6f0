"""The network on several clips at once, without a choice that depends on data: what a CUDA graph can hold.

The network's own modules are used; only the two places that choose by data are restated: the selection of all clips at
once, and attention, computed both ways and then chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bsst.config import NetworkConfig
from bsst.plugins.sparse_window_attention.both_ways import both_ways
from bsst.reference.blur import branch_motion
from bsst.reference.bsstnet import BSSTNet, direction_of
from bsst.reference.selection import WINDOW, expandable_groups, select
from bsst.reference.transformer import Block
from bsst.training.batch import Batch

__all__ = ["restore_clips"]

Tables = tuple[Tensor, Tensor, Tensor]


def restore_clips(net: BSSTNet, batch: Batch) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Forward pass.

    Returns:
        Restored frames and frames plus the change before it is restrained, each (N T, 3, H, W), and the features
        [encoder, branches ..., reconstruction], each (N, T, C, h, w).
    """
    clip, frames = batch.blurry.shape[:2], batch.blurry.flatten(0, 1)
    skip, half, quarter = net.encode(frames)
    blur, backward, forward = net.refine(batch.backward, batch.forward)
    features = [quarter.unflatten(0, clip)]
    for branch in net.config.branches:
        motion = branch_motion(1 - blur, backward, forward, direction_of(branch), net.config.flow_limit)
        features.append(net.propagate(branch, features, motion))
    reconstruction = net.fuse(torch.cat(features, 2))
    features.append(reconstruction)
    attended = _attend(net, reconstruction, _select(blur, net.config))
    decoded = net.decode(reconstruction, attended, half.unflatten(0, clip)).flatten(0, 1)
    changed = net.restore(decoded, skip, frames)
    moving = net.moving(backward, forward)
    restored = changed
    if moving is not None:
        restored = frames + net.restrain(changed - frames, decoded.float(), frames, moving.flatten(0, 1))
    return restored, changed, features


def _select(blur: Tensor, config: NetworkConfig) -> Tables:
    """`select` of every clip of (N, T, 1, h, w): (N, blocks, G, m), the same, (N, blocks, G)."""

    def one(clip: Tensor) -> Tables:
        s = select(clip, blocks=config.transformer_blocks, threshold=config.blur_threshold)
        return s.query_frames, s.key_frames, s.active

    tables: Tables = torch.vmap(one)(blur)
    return tables


def _attend(net: BSSTNet, x: Tensor, tables: Tables) -> Tensor:
    """`BSSTNet.attend` of every clip: (N, T, C, h, w) -> same."""
    n, t = x.shape[:2]
    tokens = net.softsplit(x.flatten(0, 1))
    for index, block in enumerate(net.transsqattn.transformer):
        assert isinstance(block, Block)
        attention, y = block.attention, block.norm1(tokens)
        pooled = attention.pool_layer(y.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        every = torch.cat((y.flatten(1, 2), pooled), 1)
        projected = (attention.query(y), attention.key(every), attention.value(every))
        query, key, value = (z.unflatten(0, (n, t)) for z in projected)
        frames, key_frames, active = (table[:, index] for table in tables)
        wide = expandable_groups(t, index)
        attended = _both_ways(query, key, value, frames, key_frames, active, heads=attention.heads, wide=wide)
        tokens = tokens + attention.proj(attended.flatten(0, 1))
        tokens = tokens + block.mlp(block.norm2(tokens))
    result: Tensor = net.softcomp(tokens).unflatten(0, (n, t))
    return result


def _both_ways(
    query: Tensor, key: Tensor, value: Tensor, frames: Tensor, key_frames: Tensor, active: Tensor, heads: int, wide: int
) -> Tensor:
    """Attention of N clips as of one clip of N T frames, whose groups hold frames of their own clip alone.

    Args:
        query: (N, T, H, W, C).
        key: (N, T, L, C).
        value: (N, T, L, C).
        frames: (N, G, m), window-major, as are the next two.
        key_frames: (N, G, m).
        active: (N, G).
        heads: attention heads.
        wide: groups of a window that may be active.
    """
    n, t, height, width = query.shape[:4]
    windows = (height // WINDOW) * (width // WINDOW)
    first = torch.arange(n, device=query.device, dtype=frames.dtype).view(n, 1, 1) * t

    def window_major(table: Tensor) -> Tensor:
        return table.unflatten(1, (windows, -1)).movedim(0, 2).flatten(0, 2)  # (windows, groups, N, ...)

    tables = (window_major(table) for table in (frames + first, key_frames + first, active))
    one = both_ways(
        *(x.flatten(0, 1) for x in (query, key, value)),
        *tables,
        heads=heads,
        window=WINDOW,
        expandable_groups=wide * n,
    )
    return one.unflatten(0, (n, t))
