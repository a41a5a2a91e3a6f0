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

    First the window and the ring of width window / 2 around it, row-major, then the pooled tokens. Positions outside
    the grid hold `height * width + pooled`: the index of a zero token appended after the pooled ones.
    """
    outside = height * width + pooled
    grid = np.pad(np.arange(height * width).reshape(height, width), window // 2, constant_values=outside)
    rows = np.arange(0, height, window)[:, None, None, None] + np.arange(2 * window)[:, None]
    columns = np.arange(0, width, window)[:, None, None] + np.arange(2 * window)
    neighbourhood = grid[rows, columns].reshape(-1, 4 * window * window)
    shared = np.broadcast_to(np.arange(height * width, outside), (len(neighbourhood), pooled))
    return np.concatenate([neighbourhood, shared], axis=1)
