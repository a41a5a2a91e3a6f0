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
    largest = max(np.abs(restored[:, band] - source[:, band]).max() for band in _bands(source))
    if largest <= FLOOR:  # within every limit, whatever the picture
        return restored, False
    weight = np.clip(2 - implausibility(source, restored), 0, 1)
    if weight.min() >= 1:
        return restored, False
    weight = _over_neighbours(weight, np.minimum)
    height, width = source.shape[1:]
    share = _stretched(_stretched(weight, 0), 1)[:height, :width].astype(np.float32)
    blended = restored - source
    blended *= share
    blended += source
    return blended, True


def implausibility(source: np.ndarray, restored: np.ndarray) -> np.ndarray:
    """How far each block is beyond its limits: frames (3, H, W) -> (ceil(H/16), ceil(W/16)), 1 = at a limit."""
    bands = _bands(source)
    low, high = (
        np.concatenate([extreme(_blocks(source[:, band]), (0, 2, 4)) for band in bands]) for extreme in (np.min, np.max)
    )
    low, high = _over_neighbours(low, np.minimum), _over_neighbours(high, np.maximum)
    extent = high - low
    margin = OVERSHOOT * extent + FLOOR
    change, left = [], []
    for band in bands:
        change.append(_blocks(np.abs(restored[:, band] - source[:, band])).mean((0, 2, 4)))
        rows = slice(band.start // BLOCK, band.start // BLOCK + len(change[-1]))
        new = _blocks(restored[:, band])
        lowest, highest = (low - margin)[rows, None, :, None], (high + margin)[rows, None, :, None]
        left.append(((new < lowest) | (new > highest)).any(0).mean((1, 3)))
    worst: np.ndarray = np.maximum(np.concatenate(change) / (CHANGE * extent + FLOOR), np.concatenate(left) / SHARE)
    return worst


def _bands(frame: np.ndarray) -> list[slice]:
    """Rows of whole blocks, a few at a time: what is computed between of all at once would take several frames."""
    return [slice(row, row + 8 * BLOCK) for row in range(0, frame.shape[1], 8 * BLOCK)]


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
