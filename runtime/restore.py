"""Frames to sharp frames: scenes, windows, tiles and flow around one restorer.

With two or more clips in flight a thread decodes, one frame ahead of a thread that estimates flow, which is one window
ahead of a thread that restores and blends, which is one window ahead of the caller, who encodes; frames leave in order.
With one clip in flight everything happens in the caller's thread, one thing after another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np

from bsst.errors import InputError, ModelError, OutOfMemoryError
from bsst.runtime.frames.ahead import Ahead
from bsst.runtime.frames.fallback import finite, with_finite_flow
from bsst.runtime.frames.restorer import Restored, Restorer
from bsst.runtime.frames.scenes import mark_cuts
from bsst.runtime.frames.tiles import GRID, Blend, TiledFlow, TileGrid, tile_grid
from bsst.runtime.frames.windows import Window, sliding_windows

__all__ = ["deblur_frames"]

T = TypeVar("T")


def deblur_frames(
    frames: Iterable[np.ndarray],
    restorer: Restorer,
    *,
    window_overlap: int | None = None,
    tile_overlap: int | None = None,
    blend: Blend = "feather",
    scene_cuts: bool = True,
    on_work: Callable[[float], None] | None = None,
    on_retry: Callable[[range], None] | None = None,
    on_repair: Callable[[int], None] | None = None,
) -> Generator[np.ndarray, None, None]:
    """Deblur a stream of frames in bounded memory; as many frames come out as went in, in order.

    Whatever ends the iteration early, an error or `close`, gives up what is under way and ends all threads.

    Args:
        frames: (3, H, W) float32 RGB, nominally in [0, 1]; any size, the same for all. Iterated in another thread if
            the restorer may have more than one clip in flight.
        restorer: an opened plan.
        window_overlap: frames shared by neighbouring windows; what the plan recommends by default.
        tile_overlap: pixels shared by neighbouring tiles, a multiple of 4; what the plan recommends by default.
        blend: how tiles are joined, see `bsst.runtime.frames.tiles`.
        scene_cuts: start afresh at hard cuts.
        on_work: called after each tile with the frames restored so far, a fraction while a window is in progress.
        on_retry: called with the frames of each window that was not finite and was restored again in float32.
        on_repair: called with the index of each frame whose restoration was not finite; its source frame is output.

    Yields:
        (3, H, W) float32 RGB, limited to [0, 1] or to the source's value where that lies outside.

    Raises:
        UsageError: overlaps that do not fit the plan.
        InputError: frames of different sizes.
        ModelError: a stage failed; the message names the frames.
    """
    work = on_work or (lambda frames_restored: None)
    with ExitStack() as stack:
        steps: list[Ahead[Any]] = []

        def give_up() -> None:
            for step in steps:
                step.stop()
            restorer.cancel()

        def ahead(items: Callable[[Callable[[T], None]], Iterator[T]], name: str) -> Iterator[T]:
            """Iterate in a thread; started here, ended with the stack."""
            steps.append(stack.enter_context(Ahead(items, name, cancel=give_up)))
            return iter(steps[-1])

        stack.callback(restorer.cancel)
        threaded = restorer.in_flight > 1
        iterator = ahead(lambda send: iter(frames), "decode") if threaded else iter(frames)
        first = next(iterator, None)
        if first is None:
            return
        overlap = restorer.tile_overlap if tile_overlap is None else tile_overlap
        grid = tile_grid(first.shape[1], first.shape[2], tile=restorer.tile, overlap=overlap, blend=blend)
        stream = _of_one_size(chain([first], iterator), first.shape)
        del first
        marked = mark_cuts(stream) if scene_cuts else ((frame, False) for frame in stream)
        windows = sliding_windows(
            ((grid.pad(frame), cut) for frame, cut in marked),
            TiledFlow(restorer, size=restorer.flow_size, frame=grid.padded, overlap=overlap),
            length=restorer.frames,
            overlap=restorer.window_overlap if window_overlap is None else window_overlap,
        )
        results: Iterator[_Result | float]
        if threaded:
            following = ahead(lambda send: windows, "windows")
            results = ahead(lambda send: _restored(following, restorer, grid, send), "restore")
        else:
            results = _restored(windows, restorer, grid, work)
        for result in results:
            if isinstance(result, float):
                work(result)
                continue
            if on_retry is not None and result.retried:
                on_retry(result.retried)
            if on_repair is not None:
                for index in result.repaired:
                    on_repair(index)
            yield from result.frames
            del result  # before the next one is awaited


@dataclass(frozen=True, kw_only=True)
class _Result:
    """A window's part of the output."""

    frames: Sequence[np.ndarray]
    """To output, in order."""
    repaired: Sequence[int]
    """Index in the video of each frame that is the source's."""
    retried: range
    """Indices in the video of all its frames if any of it was restored again in float32; else empty."""


def _of_one_size(frames: Iterable[np.ndarray], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    for index, frame in enumerate(frames):
        if frame.shape != shape:
            raise InputError(
                f"expected all frames to be {shape[2]}x{shape[1]} like the first, got {frame.shape[2]}x"
                f"{frame.shape[1]} at frame {index}; split or scale the video first"
            )
        yield frame


@dataclass(frozen=True, kw_only=True)
class _Tile:
    """One tile of one window, under way."""

    window: Window
    clip: Sequence[np.ndarray]
    """What `Restorer.submit` was given, views of the window's frames."""
    backward: np.ndarray
    forward: np.ndarray
    restored: Restored
    where: str
    """For messages."""
    retried: bool
    """Its flow was estimated again in float32."""


def _restored(
    windows: Iterable[Window], restorer: Restorer, grid: TileGrid, on_work: Callable[[float], None]
) -> Iterator[_Result]:
    """Each window -> its kept frames; while a tile is awaited, up to `in_flight` - 1 others follow it."""
    done = 0  # frames of the windows before
    tiles = _in_flight(_submitted(windows, restorer, grid), restorer.in_flight)
    for first in tiles:
        window = first.window
        retried = [first.where] if first.retried else []
        blended = grid.blend(
            _results(chain([first], islice(tiles, len(grid) - 1)), restorer, grid, done, on_work, retried)
        )
        result = _checked(window, blended, grid, done, retried=bool(retried))
        done += len(result.frames)
        del first, window, blended
        yield result
        del result


def _submitted(windows: Iterable[Window], restorer: Restorer, grid: TileGrid) -> Iterator[_Tile]:
    """Every tile of every window, row by row."""

    def tiles(window: Window, frames: str, retried: bool) -> Iterator[_Tile]:
        clips = zip(*(grid.cut(frame) for frame in window.frames), strict=True)
        flows = zip(*(grid.scaled(GRID).cut(np.stack(pair)) for pair in window.pairs), strict=True)
        for count, (clip, flow) in enumerate(zip(clips, flows, strict=True), start=1):
            backward, forward = np.stack(flow, axis=1)
            where = f"{frames}, tile {count} of {len(grid)}"
            with _named(where):
                restored = restorer.submit(clip, backward, forward)
            yield _Tile(
                window=window,
                clip=clip,
                backward=backward,
                forward=forward,
                restored=restored,
                where=where,
                retried=retried,
            )

    done = 0
    for window in windows:
        kept = window.keep.stop - window.keep.start
        frames = f"frames {done} to {done + kept - 1}"
        with _named(f"{frames}, flow again in float32"):
            sound = with_finite_flow(window, restorer)
        yield from tiles(sound, frames, sound is not window)
        done += kept
        del window, sound  # before the next one is awaited


def _in_flight(tiles: Iterator[_Tile], limit: int) -> Iterator[_Tile]:
    """The same in order, each only when `limit` are under way; before an error comes what was under way."""
    pending: deque[_Tile] = deque()
    failure: Exception | None = None
    try:
        for tile in tiles:
            pending.append(tile)
            del tile
            if len(pending) == limit:
                yield pending.popleft()
    except Exception as error:
        failure = error
    while pending:
        yield pending.popleft()
    if failure is not None:
        raise failure


def _results(
    tiles: Iterable[_Tile],
    restorer: Restorer,
    grid: TileGrid,
    done: int,
    on_work: Callable[[float], None],
    retried: list[str],
) -> Iterator[np.ndarray]:
    """Tiles of a window under way -> (K, 3, tile_h, tile_w) each; `retried` gets those that float32 had to restore."""
    for count, tile in enumerate(tiles, start=1):
        with _named(tile.where):
            restored = tile.restored.result()[tile.window.keep]
        if not finite(restored):
            with _named(f"{tile.where}, again in float32"):
                exact = restorer.float32()
                if exact is not None:
                    restored = exact.submit(tile.clip, tile.backward, tile.forward).result()[tile.window.keep]
                    retried.append(tile.where)
        yield restored
        on_work(done + len(restored) * count / len(grid))


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say where a failure of the network happened."""
    try:
        yield
    except (ModelError, OutOfMemoryError) as error:
        raise type(error)(f"{where}: {error}") from error


def _checked(window: Window, blended: np.ndarray, grid: TileGrid, done: int, *, retried: bool) -> _Result:
    """Limit the kept frames (K, 3, *padded) of a window in place; frames that are not finite become the source's."""
    frames, repaired = [], []
    for index, (source, restored) in enumerate(zip(window.frames[window.keep], blended, strict=True), start=done):
        if finite(restored):
            # The source's own values outside the RGB cube are code values of its video: let them pass.
            frames.append(np.clip(restored, np.minimum(source, 0), np.maximum(source, 1), out=restored))
        else:
            frames.append(source)
            repaired.append(index)
    return _Result(
        frames=[grid.crop(frame) for frame in frames],
        repaired=repaired,
        retried=range(done, done + len(frames) * retried),
    )
