"""Temporal windows over a stream of frames of unknown length, in bounded memory.

A scene of n frames is covered by windows of T frames that share `overlap` frames with the next one; the last window is
aligned to the end of the scene, and a scene shorter than T is reflected. Of the shared frames, the first half is taken
from the earlier window and the second half from the later one, so every frame is restored with neighbours on both sides
wherever the scene has them, and every frame is output exactly once, in order.

    T = 6, overlap = 2, n = 13 (| marks what a window outputs)
    frame      0 1 2 3 4 5 6 7 8 9 . . 12
    window 0  |0 1 2 3 4|5
    window 1           4|5 6 7 8|9
    window 2 (aligned)       7 8|9 . . 12|

Flow is estimated once per pair of neighbouring frames, features once per frame, also where windows overlap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bsst.errors import UsageError
from bsst.runtime.frames.restorer import FlowEstimator, Pair

__all__ = [
    "RestoredWindow",
    "SourceFrame",
    "TileDone",
    "Window",
    "finite",
    "sliding_windows",
    "window_by_window",
    "window_count",
    "with_finite_flow",
]

MANY_TILES = 16
"""Tiles for each clip in flight, from which on waiting for the last ones costs at most a thirtieth."""


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One frame of a video, with whatever belongs to it."""

    pixels: np.ndarray
    """(3, H, W) float32 RGB, nominally in [0, 1]."""
    time: Any = None
    """Comes back in `RestoredWindow.times`; nothing between reads it. A job keeps timestamp and duration here."""
    cut: bool = False
    """Starts a new scene."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """T frames, the flows between them, and which of the frames to output."""

    frames: Sequence[np.ndarray]
    """T frames (3, H, W)."""
    pairs: Sequence[Pair]
    """T - 1 pairs of flows between neighbours."""
    keep: slice
    """Frames to output, half-open; never a reflected one."""
    times: Sequence[Any]
    """`SourceFrame.time` of each frame to output."""


@dataclass(frozen=True, slots=True)
class TileDone:
    """One more tile of the present window is restored."""

    frames: float
    """Frames restored so far, with the finished part of the present window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoredWindow:
    """The frames that one window outputs; those of all windows, in order, are those that came in."""

    first: int
    """Index of its first frame among all that came in."""
    frames: Sequence[np.ndarray]
    """(3, H, W) float32 RGB each, limited to [0, 1] or to the source's value where that lies outside."""
    times: Sequence[Any]
    """`SourceFrame.time` of each."""
    fallback: bool
    """Any of it was not finite and was restored by the float32 fallback."""
    guarded: Sequence[int]
    """Index of each frame in which an implausible change was blended back, see `bsst.runtime.frames.guard`."""
    repaired: Sequence[int]
    """Index of each frame that was not finite in the end; the source's frame stands in for it."""


def sliding_windows(
    frames: Iterable[SourceFrame], flows: FlowEstimator, *, length: int, overlap: int
) -> Iterator[Window]:
    """Windows over frames in order; at most `length` + 1 frames are held at any time.

    Args:
        frames: all of one size. The first frame starts a scene in any case.
        flows: called once per frame and once per pair of neighbours of a scene.
        length: T, at least 2.
        overlap: frames shared by neighbouring windows, 0 <= overlap < length.

    Raises:
        UsageError: length and overlap do not fit together.
    """
    stride = _stride(length, overlap)
    recent: deque[SourceFrame] = deque(maxlen=length)
    pairs: deque[Pair] = deque(maxlen=length - 1)
    features = None
    seen = done = 0  # frames of the scene that came in and that were output
    for frame, first, last in _scene_edges(frames):
        if first:
            recent.clear()
            pairs.clear()
            seen = done = 0
        previous = features  # before the next are made: features of two frames are held, not of three
        features = flows.features(frame.pixels)
        if not first:
            # Waiting for each pair costs nothing while flow takes less time than the network, a window behind.
            pairs.append(flows.flow(previous, features))
        recent.append(frame)
        seen += 1
        if last or (seen >= length and (seen - length) % stride == 0):
            end = seen if last else seen - (overlap - overlap // 2)
            start = seen - len(recent)
            # Only the caller holds the window while the next one is made.
            yield _window(list(recent), list(pairs), length, slice(done - start, end - start))
            done = end


def window_count(frames: int, *, length: int, overlap: int) -> int:
    """Windows that `sliding_windows` makes of one scene.

    Raises:
        UsageError: length and overlap do not fit together.
    """
    stride = _stride(length, overlap)
    return min(frames, 1 + max(0, -(-(frames - length) // stride)))


def window_by_window(*, tiles: int, in_flight: int) -> bool:
    """Whether a CPU finishes one window before it begins the next, which saves the memory of two.

    A lane may then wait for the last tile of another, which is little beside many tiles.

    Args:
        tiles: of a window.
        in_flight: clips under way at once.
    """
    return tiles >= MANY_TILES * in_flight


def finite(*arrays: np.ndarray) -> bool:
    """Whether no value is NaN or infinite."""
    return all(bool(np.isfinite(array).all()) for array in arrays)


def with_finite_flow(window: Window, fallback: Callable[[], FlowEstimator | None]) -> Window:
    """The window with flow estimated again between frames where it is not finite.

    Flow is an input of restoration: with its flow mended, a window often needs nothing else.

    Args:
        window: as estimated.
        fallback: asked only where flow is not finite; the same network in float32, None where there is none.

    Returns:
        The same object where all flow is finite, or nothing can be done.

    Raises:
        BsstError: the fallback cannot be opened, or failed.
    """
    wrong = [index for index, pair in enumerate(window.pairs) if not finite(*pair)]
    flows = fallback() if wrong else None
    if flows is None:
        return window
    pairs = list(window.pairs)
    known: dict[tuple[int, int], Pair] = {}  # a short scene is walked back and forth
    for index in wrong:
        a, b = window.frames[index : index + 2]
        if (id(a), id(b)) not in known:
            backward, forward = flows.flow(flows.features(a), flows.features(b))
            known |= {(id(a), id(b)): (backward, forward), (id(b), id(a)): (forward, backward)}
        pairs[index] = known[id(a), id(b)]
    return replace(window, pairs=pairs)


def _stride(length: int, overlap: int) -> int:
    if length < 2 or not 0 <= overlap < length:
        raise UsageError(f"expected a window overlap below the window length of the plan ({length} frames), "
                         f"got {overlap}; try --window-overlap {length // 3}")  # fmt: skip
    return length - overlap


def _scene_edges(frames: Iterable[SourceFrame]) -> Iterator[tuple[SourceFrame, bool, bool]]:
    """Frame -> (frame, is first of its scene, is last of its scene)."""
    held: SourceFrame | None = None
    first = True
    for frame in frames:
        if held is not None:
            yield held, first, frame.cut
            first = frame.cut
        held = frame
    if held is not None:
        yield held, first, True


def _window(sources: list[SourceFrame], pairs: list[Pair], length: int, keep: slice) -> Window:
    """Extend a short scene to `length` frames by walking it back and forth; a pair walked backwards is swapped."""
    frames = [source.pixels for source in sources]
    times = [source.time for source in sources[keep]]
    count = len(frames)
    if count == length:
        return Window(frames=frames, pairs=pairs, keep=keep, times=times)
    if count == 1:
        _, height, width = frames[0].shape
        still = np.zeros((2, height // 4, width // 4), np.float32)
        return Window(frames=frames * length, pairs=[(still, still)] * (length - 1), keep=keep, times=times)
    period = 2 * (count - 1)
    order = [min(i % period, period - i % period) for i in range(length)]
    steps = [pairs[a] if b > a else (pairs[b][1], pairs[b][0]) for a, b in zip(order[:-1], order[1:], strict=True)]
    return Window(frames=[frames[i] for i in order], pairs=steps, keep=keep, times=times)
