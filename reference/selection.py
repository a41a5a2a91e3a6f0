"""Which windows and frames attend sparsely (specification sections 11 and 12.4), as tables of fixed size.

A clip of T frames has T / m groups of m = T // 4 frames per window. In a window that is blurred anywhere, the leading
groups hold the selected query frames and attend to the selected key frames; every other group attends to itself.
Ranking is done by pairwise comparison, so nothing depends on data but the tables' values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bsst.errors import UsageError

__all__ = ["WINDOW", "Selection", "expandable_groups", "legal_frames", "select"]

WINDOW = 8


@dataclass(frozen=True)
class Selection:
    """Index tables of all sparse transformer blocks of one clip; G = windows x (T / m), window-major."""

    query_frames: Tensor
    """(blocks, G, m) int32: frames of each group."""
    key_frames: Tensor
    """(blocks, G, m) int32: frames whose expanded windows an active group attends to."""
    active: Tensor
    """(blocks, G) int32: 1 where a group attends to expanded windows."""


def legal_frames(frames: int) -> bool:
    """Whether a clip of this length divides into groups that never cross a window: 4 to 8, 10, multiples of 4."""
    group = frames // 4
    return group > 0 and frames % group == 0 and all(_selected(frames, p) % group == 0 for p in (0, 1))


def expandable_groups(frames: int, block: int) -> int:
    """Groups per window of a block that may attend sparsely."""
    return _selected(frames, block % 2) // (frames // 4)


def select(blur: Tensor, *, blocks: int, threshold: float) -> Selection:
    """Choose windows, query frames and key frames of every block.

    Args:
        blur: blur map of one clip, (T, 1, H, W) at 1/4 scale in [0, 1]; H and W multiples of 16.
        blocks: number of sparse transformer blocks.
        threshold: a window is blurred where its mean blur exceeds this.

    Raises:
        UsageError: T is not a legal clip length.
    """
    frames = blur.shape[0]
    if not legal_frames(frames):
        raise UsageError(f"expected a clip of 4 to 8, 10 or a multiple of 4 frames, got {frames}; pad the clip")
    tokens = F.avg_pool2d(blur, 5, stride=2, padding=2, count_include_pad=True)
    mean = F.avg_pool2d(tokens, WINDOW).flatten(1)  # (T, windows)
    hard = (mean > threshold).to(mean.dtype)
    even = (torch.arange(frames, device=mean.device) % 2 == 0).to(mean.dtype)[:, None]

    remaining = mean
    tables = []
    for block in range(blocks):
        member = even if block % 2 == 0 else 1 - even
        # The released code keeps zeroing one shared map, so from the second block on all frames tie.
        remaining = remaining * member
        blurred = (hard * member).amax(0)
        count = _selected(frames, block % 2)
        query = _top(remaining, count)
        key = _top((1 - remaining) * member, count)
        tables.append(_tables(query, key, blurred, count))
    query_frames, key_frames, active = (torch.stack(parts).int() for parts in zip(*tables, strict=True))
    return Selection(query_frames, key_frames, active)


def _selected(frames: int, parity: int) -> int:
    """Frames that a blurred window selects in a block of this parity."""
    members = (frames + 1) // 2 if parity == 0 else frames // 2
    return members // 2


def _tables(query: Tensor, key: Tensor, blurred: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """0/1 choices (T, windows) -> query frames (G, m), key frames (G, m), active (G)."""
    frames, windows = query.shape
    group = frames // 4
    query_order = _chosen_first(query * blurred, count)
    key_order = _chosen_first(key * blurred, count)
    leading = (torch.arange(frames, device=query.device) < count).to(query.dtype)[:, None]
    wide = leading * blurred  # (T, windows) by position in the order
    key_order = wide * key_order + (1 - wide) * query_order
    active = wide.reshape(-1, group, windows)[:, 0]

    def grouped(order: Tensor) -> Tensor:
        return order.T.reshape(-1, group)

    return grouped(query_order), grouped(key_order), active.T.flatten()


def _chosen_first(chosen: Tensor, count: int) -> Tensor:
    """Frame indices per window: chosen ones ascending, then the rest ascending, (T, windows) as floats."""
    frames = chosen.shape[0]
    # Row t counts the frames up to t, itself included.
    before = torch.tril(torch.ones(frames, frames, dtype=chosen.dtype, device=chosen.device))
    rank_chosen = before @ chosen - 1
    any_chosen = chosen.amax(0)
    rank_rest = before @ (1 - chosen) - 1 + count * any_chosen
    position = chosen * rank_chosen + (1 - chosen) * rank_rest  # (T, windows)
    slots = torch.arange(frames, dtype=chosen.dtype, device=chosen.device)
    at_slot = (position[None] == slots[:, None, None]).to(chosen.dtype)  # (slot, frame, window)
    return (at_slot * slots[None, :, None]).sum(1)


def _top(keys: Tensor, count: int) -> Tensor:
    """1 for the `count` largest keys of each column of (T, windows), else 0; among equal ones, the earliest frames."""
    frames = keys.shape[0]
    earlier = torch.tril(torch.ones(frames, frames, dtype=torch.bool, device=keys.device), -1)[:, :, None]
    larger = keys[None] > keys[:, None]  # [t, u]: u beats t
    tied = (keys[None] == keys[:, None]) & earlier
    rank = (larger | tied).to(keys.dtype).sum(1)
    return (rank < count).to(keys.dtype)
