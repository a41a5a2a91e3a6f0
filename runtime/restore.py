"""Frames to sharp frames: scenes, windows, tiles and flow around one restorer.

With two or more clips in flight every step has a thread, and works one item ahead of the next step:

    decode     frame 9                  one frame ahead
    windows    flow of frames 6 to 8    one window ahead
    restore    tiles of frames 3 to 5   one window ahead of the caller
    caller     encodes frames 0 to 2

With one clip in flight everything happens in the caller's thread, one thing after another. Windows of many tiles do so
on a CPU with more in flight too (`window_by_window`), so that memory holds one window and not three: clips, and flows
of areas, still run side by side. Frames leave in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np

from bsst.errors import ModelError, OutOfMemoryError
from bsst.plan.manifest import GRID
from bsst.runtime.frames.ahead import Ahead
from bsst.runtime.frames.guard import guarded
from bsst.runtime.frames.layout import CallersFrames
from bsst.runtime.frames.restorer import Restored, Restorer
from bsst.runtime.frames.scenes import mark_cuts
from bsst.runtime.frames.tiles import Blend, TiledFlow, TileGrid, tile_grid
from bsst.runtime.frames.windows import (
    RestoredWindow,
    SourceFrame,
    TileDone,
    Window,
    finite,
    sliding_windows,
    window_by_window,
    with_finite_flow,
)

__all__ = ["Tiling", "deblur_frames", "restored_windows"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How a video is cut up; None stands for what the plan recommends."""

    window_overlap: int | None = None
    """Frames shared by neighbouring windows."""
    tile: tuple[int, int] | None = None
    """(height, width) of one of the shapes of tiles of a plan file; by default of the one that computes fewest pixels
    of the video."""
    tile_overlap: int | None = None
    """Pixels shared by neighbouring tiles, a multiple of 4."""
    blend: Blend = "feather"
    """How tiles are joined, see `bsst.runtime.frames.tiles`."""
    scene_cuts: bool = True
    """Start afresh at hard cuts."""
    guard: bool = True
    """Blend the source back where a change is implausible, see `bsst.runtime.frames.guard`."""


def deblur_frames(
    frames: Iterable[np.ndarray],
    restorer: Restorer,
    *,
    window_overlap: int | None = None,
    tile_overlap: int | None = None,
    blend: Blend = "feather",
    scene_cuts: bool = True,
    guard: bool = True,
) -> Generator[np.ndarray, None, None]:
    """Deblur a stream of frames in bounded memory; as many frames come out as went in, in order.

    Whatever ends the iteration early, an error or `close`, gives up what is under way and ends all threads.

    Args:
        frames: (3, H, W) float32 RGB, nominally in [0, 1], or uint8 RGB as (H, W, 3) or (3, H, W); any size, the same
            for all. Copied where they come in, so one buffer may be filled again and again. Iterated in another thread
            if the restorer may have more than one clip in flight.
        restorer: an opened plan.
        window_overlap: see `Tiling`.
        tile_overlap: see `Tiling`.
        blend: see `Tiling`.
        scene_cuts: see `Tiling`.
        guard: see `Tiling`.

    Yields:
        What came in: (3, H, W) float32 RGB, limited to [0, 1] or to the source's value where that lies outside, or
        uint8 in the layout of the source.

    Raises:
        UsageError: overlaps that do not fit the plan.
        InputError: frames of another layout, type or range, or of different sizes.
        ModelError: a stage failed; the message names the frames.
    """
    tiling = Tiling(
        window_overlap=window_overlap, tile_overlap=tile_overlap, blend=blend, scene_cuts=scene_cuts, guard=guard
    )
    incoming = CallersFrames(frames)
    with closing(restored_windows(_sources(incoming), restorer, tiling)) as results:
        for result in results:
            if isinstance(result, RestoredWindow):
                yield from map(incoming.returned, result.frames)
            del result  # before the next one is awaited


def restored_windows(
    frames: Iterable[SourceFrame], restorer: Restorer, tiling: Tiling | None = None
) -> Generator[RestoredWindow | TileDone, None, None]:
    """What `deblur_frames` flattens: window after window, each after the reports of its tiles.

    Args:
        frames: all of one size, which readers and `CallersFrames` check. Iterated in another thread if the restorer may
            have more than one clip in flight.
        restorer: an opened plan.
        tiling: how the video is cut up; as the plan recommends by default.

    Raises:
        UsageError: overlaps that do not fit the plan.
        ModelError: a stage failed; the message names the frames.
    """
    tiling = tiling or Tiling()
    with ExitStack() as stack:
        steps: list[Ahead[Any]] = []

        def give_up() -> None:
            for step in steps:
                step.stop()
            restorer.cancel()

        def ahead(items: Iterator[T], name: str, light: Callable[[T], bool] = lambda item: False) -> Iterator[T]:
            """Iterate in a thread, if any; started here, ended with the stack."""
            if restorer.in_flight == 1 or one_by_one:
                return items
            steps.append(stack.enter_context(Ahead(items, name, cancel=give_up, light=light)))
            return iter(steps[-1])

        stack.callback(restorer.cancel)
        source = iter(frames)
        first = next(source, None)
        if first is None:
            return
        height, width = first.pixels.shape[1:]
        overlap = restorer.tile_overlap if tiling.tile_overlap is None else tiling.tile_overlap
        grid = tile_grid(height, width, tile=restorer.tile, overlap=overlap, blend=tiling.blend)
        one_by_one = not restorer.on_gpu and window_by_window(tiles=len(grid), in_flight=restorer.in_flight)
        broken: dict[int, np.ndarray] = {}
        stream = _finite(chain([first], ahead(source, "decode")), broken)
        del first
        marked = mark_cuts(stream) if tiling.scene_cuts else stream
        windows = sliding_windows(
            (replace(frame, pixels=grid.pad(frame.pixels)) for frame in marked),
            TiledFlow(restorer, size=restorer.flow_size, frame=grid.padded, overlap=overlap),
            length=restorer.frames,
            overlap=restorer.window_overlap if tiling.window_overlap is None else tiling.window_overlap,
        )
        tiles = _in_flight(
            _submitted(ahead(windows, "windows"), restorer, grid), restorer.in_flight, one_by_one=one_by_one
        )
        results = _restored(tiles, restorer, grid, broken, guard=tiling.guard)
        yield from ahead(results, "restore", light=lambda result: isinstance(result, TileDone))


def _sources(frames: Iterable[np.ndarray]) -> Iterator[SourceFrame]:
    iterator = iter(frames)
    try:
        for pixels in iterator:
            yield SourceFrame(pixels)
            del pixels
    finally:
        if close := getattr(iterator, "close", None):
            close()


def _finite(frames: Iterable[SourceFrame], broken: dict[int, np.ndarray]) -> Iterator[SourceFrame]:
    """Frames that a network can take: in place of NaN and infinity the frame before; `broken` gets what came, by index.

    One NaN would reach every pixel of its window and, through recurrence and overlaps, of the next ones.
    """
    before: np.ndarray | None = None
    for index, frame in enumerate(frames):
        if not finite(frame.pixels):
            broken[index] = frame.pixels
            stand_in = np.float32(0.5) if before is None else before
            frame = replace(frame, pixels=np.where(np.isfinite(frame.pixels), frame.pixels, stand_in))
        before = frame.pixels
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
    fallback: bool
    """Its flow was estimated again by the float32 fallback."""
    last: bool
    """Of its window."""


def _restored(
    tiles: Iterator[_Tile], restorer: Restorer, grid: TileGrid, broken: dict[int, np.ndarray], *, guard: bool
) -> Iterator[RestoredWindow | TileDone]:
    """The tiles of each window -> its kept frames."""
    done = 0  # frames of the windows before
    for first in tiles:
        window = first.window
        fallen_back = [first.where] if first.fallback else []
        results = _results(chain([first], islice(tiles, len(grid) - 1)), restorer, fallen_back)
        for count, blended in enumerate(grid.blending(results), start=1):  # noqa: B007 - the last is used below
            yield TileDone(done + len(window.times) * count / len(grid))
        result = _checked(window, blended, grid, done, broken, fallback=bool(fallen_back), guard=guard)
        done += len(result.frames)
        del first, window, blended
        yield result
        del result


def _submitted(windows: Iterable[Window], restorer: Restorer, grid: TileGrid) -> Iterator[_Tile]:
    """Every tile of every window, row by row."""

    def tiles(window: Window, frames: str, fallback: bool) -> Iterator[_Tile]:
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
                fallback=fallback,
                last=count == len(grid),
            )

    def fallback() -> TiledFlow | None:
        network = restorer.fallback()
        if network is None:
            return None
        return TiledFlow(network, size=network.flow_size, frame=grid.padded, overlap=network.tile_overlap)

    done = 0
    for window in windows:
        kept = window.keep.stop - window.keep.start
        frames = f"frames {done} to {done + kept - 1}"
        with _named(f"{frames}, flow by the float32 fallback"):
            mended = with_finite_flow(window, fallback)
        yield from tiles(mended, frames, mended is not window)
        done += kept
        del window, mended  # before the next one is awaited


def _in_flight(tiles: Iterator[_Tile], limit: int, *, one_by_one: bool) -> Iterator[_Tile]:
    """The same in order, each only when `limit` are under way; before an error comes what was under way.

    One by one, no window is asked for before the tiles of the one before have come.
    """
    pending: deque[_Tile] = deque()
    failure: Exception | None = None
    try:
        for tile in tiles:
            pending.append(tile)
            most = 0 if one_by_one and tile.last else limit - 1
            del tile
            while len(pending) > most:
                yield pending.popleft()
    except Exception as error:
        failure = error
    while pending:
        yield pending.popleft()
    if failure is not None:
        raise failure


def _results(tiles: Iterable[_Tile], restorer: Restorer, fallen_back: list[str]) -> Iterator[np.ndarray]:
    """Tiles under way -> (K, 3, tile_h, tile_w) each; `fallen_back` gets those that the fallback had to restore."""
    for tile in tiles:
        with _named(tile.where):
            restored = tile.restored.result()[tile.window.keep]
        if not finite(restored):
            with _named(f"{tile.where}, by the float32 fallback"):
                fallback = restorer.fallback()
                if fallback is not None:
                    restored = fallback.submit(tile.clip, tile.backward, tile.forward).result()[tile.window.keep]
                    fallen_back.append(tile.where)
        yield restored


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say where a failure of the network happened."""
    try:
        yield
    except (ModelError, OutOfMemoryError) as error:
        raise type(error)(f"{where}: {error}") from error


def _checked(
    window: Window,
    blended: np.ndarray,
    grid: TileGrid,
    done: int,
    broken: dict[int, np.ndarray],
    *,
    fallback: bool,
    guard: bool,
) -> RestoredWindow:
    """Limit the kept frames (K, 3, *padded) of a window in place; frames that are not finite become the source's."""
    frames, repaired, taken_back = [], [], []
    for index, (source, restored) in enumerate(zip(window.frames[window.keep], blended, strict=True), start=done):
        if index in broken:
            frames.append(broken.pop(index))
            repaired.append(index)
        elif finite(restored):
            # The source's own values outside the RGB cube are code values of its video: let them pass.
            for channel, of_source in zip(restored, source, strict=True):
                np.clip(channel, np.minimum(of_source, 0), np.maximum(of_source, 1), out=channel)
            if guard:
                safe, implausible = guarded(source, restored)
                if implausible:
                    restored[...] = safe  # else each such frame would be held twice, for the others share its memory
                    taken_back.append(index)
                del safe
            frames.append(restored)
        else:
            frames.append(source)
            repaired.append(index)
    return RestoredWindow(
        first=done,
        frames=[grid.crop(frame) for frame in frames],
        times=window.times,
        fallback=fallback,
        guarded=taken_back,
        repaired=repaired,
    )
