"""The last guard: where a network changed a frame implausibly, the source's picture is blended back.

Sharpening moves values within what the picture holds nearby: an edge gets steeper, its two sides keep their values but
for some overshoot. A network that went astray (wrong flow, motion beyond its training, numbers that ran away) leaves
that range, or changes an area by as much as the area varies. Both are seen from outside, for every plan:

* a block of 16x16 pixels is compared with the range of the source in it and its eight neighbours;
* `CHANGE` times that range (plus `FLOOR`) is the most that a block may change on average;
* `OVERSHOOT` times that range (plus `FLOOR`) is how far a value may leave it; at most `SHARE` of a block's may.

A block at its limit is left alone, at twice its limit it is the source's, in between and towards its neighbours the
two are blended.

The limits weigh two harms. Measured on `edge` without the limits of its own, on the demo clip enlarged four times
(25.5 dB): the network ends at 14.1 dB, guarded at 20.7. A perfect restoration of 26 held-out clips is left alone in 23;
half as strict leaves 25 and ends at 15.8 dB. On no clip of `benchmarks/harm.py` does the packaged plan reach a limit.
"""

from __future__ import annotations

import numpy as np

__all__ = ["BLOCK", "guarded", "implausibility"]

BLOCK = 16
CHANGE = 0.25
OVERSHOOT = 0.25
SHARE = 0.04
FLOOR = 0.03


def guarded(source: np.ndarray, restored: np.ndarray) -> tuple[np.ndarray, bool]:
    """Blend the source back where the change is implausible.

    Args:
        source: frame (3, H, W) float32 RGB, nominally in [0, 1].
        restored: the same frame restored, same shape, finite.

    Returns:
        The frame to show, `restored` itself where nothing was changed, and whether anything was.
    """
    if np.abs(restored - source).max() <= FLOOR:  # within every limit, whatever the picture
        return restored, False
    weight = np.clip(2 - implausibility(source, restored), 0, 1)
    if weight.min() >= 1:
        return restored, False
    weight = _over_neighbours(weight, np.minimum)
    height, width = source.shape[1:]
    share = _stretched(_stretched(weight, 0), 1)[:height, :width].astype(np.float32)
    return source + share * (restored - source), True


def implausibility(source: np.ndarray, restored: np.ndarray) -> np.ndarray:
    """How far each block is beyond its limits: frames (3, H, W) -> (ceil(H/16), ceil(W/16)), 1 = at a limit."""
    values, change = _blocks(source), _blocks(np.abs(restored - source))
    low, high = values.min((0, 2, 4)), values.max((0, 2, 4))
    low, high = _over_neighbours(low, np.minimum), _over_neighbours(high, np.maximum)
    extent = high - low
    margin = (OVERSHOOT * extent + FLOOR)[:, None, :, None]
    new = _blocks(restored)
    outside = (new < low[:, None, :, None] - margin) | (new > high[:, None, :, None] + margin)
    worst: np.ndarray = np.maximum(
        change.mean((0, 2, 4)) / (CHANGE * extent + FLOOR), outside.any(0).mean((1, 3)) / SHARE
    )
    return worst


def _blocks(frame: np.ndarray) -> np.ndarray:
    """(3, H, W) -> (3, rows, 16, columns, 16); the last row and column repeat the frame's edge."""
    bottom, right = (-side % BLOCK for side in frame.shape[1:])
    if bottom or right:
        frame = np.pad(frame, ((0, 0), (0, bottom), (0, right)), mode="edge")
    return frame.reshape(3, frame.shape[1] // BLOCK, BLOCK, frame.shape[2] // BLOCK, BLOCK)


def _over_neighbours(grid: np.ndarray, extreme: np.ufunc) -> np.ndarray:
    """Smallest or largest value of each cell and its eight neighbours, (rows, columns)."""
    for axis in (0, 1):
        padded = np.pad(grid, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        first, middle, last = (np.take(padded, range(k, k + grid.shape[axis]), axis) for k in range(3))
        grid = extreme(extreme(first, middle), last)
    return grid


def _stretched(grid: np.ndarray, axis: int) -> np.ndarray:
    """Cells -> pixels along an axis, linearly between the centres of blocks."""
    count = grid.shape[axis]
    position = np.clip((np.arange(count * BLOCK) + 0.5) / BLOCK - 0.5, 0, count - 1)
    below = position.astype(np.intp)
    fraction = (position - below).reshape([-1 if a == axis else 1 for a in (0, 1)])
    above = np.minimum(below + 1, count - 1)
    result: np.ndarray = np.take(grid, below, axis) * (1 - fraction) + np.take(grid, above, axis) * fraction
    return result
