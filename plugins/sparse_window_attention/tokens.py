"""Which tokens a window reads: the fixed index tables that all lowerings share. Pure NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["own_tokens", "wide_tokens"]


def own_tokens(height: int, width: int, window: int) -> npt.NDArray[np.int64]:
    """Row-major tokens of each window, (windows, window^2); windows row-major."""
    grid = np.arange(height * width).reshape(height // window, window, width // window, window)
    return grid.transpose(0, 2, 1, 3).reshape(-1, window * window)


def wide_tokens(height: int, width: int, window: int, pooled: int) -> npt.NDArray[np.int64]:
    """Tokens that an active window reads of one frame, (windows, 4 window^2 + pooled).

    First the own window, then the ring of width window / 2 around it, then the pooled tokens. Positions outside
    the grid hold `height * width + pooled`: the index of a zero token appended after the pooled ones.
    """
    half = window // 2
    outside = height * width + pooled
    grid = np.pad(np.arange(height * width).reshape(height, width), half, constant_values=outside)
    span = np.arange(2 * window)
    inside = (span >= half) & (span < half + window)
    ring = ~np.logical_and.outer(inside, inside)
    rows = np.arange(0, height, window)[:, None] + span
    columns = np.arange(0, width, window)[:, None] + span
    neighbourhood = grid[rows[:, None, :, None], columns[None, :, None, :]].reshape(-1, 2 * window, 2 * window)
    own = own_tokens(height, width, window)
    shared = np.broadcast_to(np.arange(height * width, outside), (len(own), pooled))
    return np.concatenate([own, neighbourhood[:, ring], shared], axis=1)
