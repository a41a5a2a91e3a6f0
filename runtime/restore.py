"""Frames to sharp frames: scenes, windows, tiles and flow around one restorer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import numpy as np

from bsst.errors import InputError
from bsst.runtime.restorer import Restorer
from bsst.runtime.scenes import mark_cuts
from bsst.runtime.tiles import GRID, Blend, TiledFlow, TileGrid, tile_grid
from bsst.runtime.windows import Window, sliding_windows

__all__ = ["deblur_frames"]


def deblur_frames(
    frames: Iterable[np.ndarray],
    restorer: Restorer,
    *,
    window_overlap: int | None = None,
    tile_overlap: int | None = None,
    blend: Blend = "feather",
    scene_cuts: bool = True,
    on_work: Callable[[float], None] | None = None,
    on_repair: Callable[[int], None] | None = None,
) -> Iterator[np.ndarray]:
    """Deblur a stream of frames in bounded memory; as many frames come out as went in, in order.

    Args:
        frames: (3, H, W) float32 RGB, nominally in [0, 1]; any size, the same for all.
        restorer: an opened plan.
        window_overlap: frames shared by neighbouring windows; what the plan recommends by default.
        tile_overlap: pixels shared by neighbouring tiles, a multiple of 4; what the plan recommends by default.
        blend: how tiles are joined, see `bsst.runtime.tiles`.
        scene_cuts: start afresh at hard cuts.
        on_work: called after each tile with the frames restored so far, a fraction while a window is in progress.
        on_repair: called with the index of each frame whose restoration was not finite; its source frame is output.

    Yields:
        (3, H, W) float32 RGB, limited to [0, 1] or to the source's value where that lies outside.

    Raises:
        UsageError: overlaps that do not fit the plan.
        InputError: frames of different sizes.
    """
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        return
    overlap = restorer.tile_overlap if tile_overlap is None else tile_overlap
    grid = tile_grid(first.shape[1], first.shape[2], tile=restorer.tile, overlap=overlap, blend=blend)
    stream = _of_one_size(chain([first], iterator), first.shape)
    marked = mark_cuts(stream) if scene_cuts else ((frame, False) for frame in stream)
    windows = sliding_windows(
        ((grid.pad(frame), cut) for frame, cut in marked),
        TiledFlow(restorer, size=restorer.flow_size, frame=grid.padded),
        length=restorer.frames,
        overlap=restorer.window_overlap if window_overlap is None else window_overlap,
    )
    index = 0
    for window in windows:
        for source, restored in zip(
            window.frames[window.keep], _restored(window, restorer, grid, index, on_work), strict=True
        ):
            if np.isfinite(restored).all():
                # The source's own values outside the RGB cube are code values of its video: let them pass.
                frame = np.clip(restored, np.minimum(source, 0), np.maximum(source, 1))
            else:
                frame = source
                if on_repair is not None:
                    on_repair(index)
            yield grid.crop(frame)
            index += 1


def _of_one_size(frames: Iterable[np.ndarray], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    for index, frame in enumerate(frames):
        if frame.shape != shape:
            raise InputError(
                f"expected all frames to be {shape[2]}x{shape[1]} like the first, got {frame.shape[2]}x"
                f"{frame.shape[1]} at frame {index}; split or scale the video first"
            )
        yield frame


def _restored(
    window: Window, restorer: Restorer, grid: TileGrid, done: int, on_work: Callable[[float], None] | None
) -> np.ndarray:
    """Window -> its kept frames (K, 3, *padded)."""

    def tiles() -> Iterator[np.ndarray]:
        clips = zip(*(grid.cut(frame) for frame in window.frames), strict=True)
        flows = zip(*(grid.scaled(GRID).cut(np.stack(pair)) for pair in window.pairs), strict=True)
        kept = window.keep.stop - window.keep.start
        for count, (clip, flow) in enumerate(zip(clips, flows, strict=True), start=1):
            backward, forward = np.stack(flow, axis=1)
            yield restorer.restore(np.stack(clip), backward, forward)[window.keep]
            if on_work is not None:
                on_work(done + kept * count / len(grid))

    return grid.blend(tiles())
