"""Tiles: cut a frame of any size into areas of one static size, and blend the results back.

A frame is padded at the bottom and right by reflection to a multiple of 4 and to at least one tile, so that every tile
starts at a multiple of 4 and quarter-scale maps (flow) are cut and blended by the same grid: `grid.scaled(4)`.
Starts along an axis are 0, tile - overlap, ... and a last one aligned to the end.

Blending: "feather" weighs each tile by a raised cosine over the overlap; "release" drops a band of half the overlap at
inner tile edges and averages what still overlaps, as the released BSSTNet inference does (tile 256, overlap 64).
Weights are separable and sum to one at every pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from bsst.errors import UsageError
from bsst.plan.manifest import GRID
from bsst.runtime.frames.restorer import FlowEstimator, FlowsSideBySide, Pair

__all__ = ["Blend", "TileGrid", "TiledFlow", "flow_grid", "tile_grid"]

Blend = Literal["feather", "release"]


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis of a padded frame."""

    length: int
    tile: int
    overlap: int
    blend: Blend

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First pixel of each tile, ascending."""
        return (*range(0, self.length - self.tile, self.tile - self.overlap), self.length - self.tile)

    @cached_property
    def weights(self) -> tuple[np.ndarray, ...]:
        """Weight of each tile along the axis, (tile,) float32 each; they sum to one over the tiles at every pixel."""
        ramp = np.ones(self.overlap)
        if self.blend == "feather":
            ramp = np.sin(np.pi / 2 * (np.arange(self.overlap) + 0.5) / max(self.overlap, 1)) ** 2
        else:
            ramp[: self.overlap // 2] = 0
        profiles = []
        total = np.zeros(self.length)
        for start in self.starts:
            profile = np.ones(self.tile)
            if start > self.starts[0]:
                profile[: self.overlap] *= ramp
            if start < self.starts[-1]:
                profile[self.tile - self.overlap :] *= ramp[::-1]
            total[start : start + self.tile] += profile
            profiles.append(profile)
        return tuple(
            (p / total[s : s + self.tile]).astype(np.float32) for s, p in zip(self.starts, profiles, strict=True)
        )

    def scaled(self, divisor: int) -> Axis:
        """The same tiles on an axis that is `divisor` times coarser."""
        return Axis(self.length // divisor, self.tile // divisor, self.overlap // divisor, self.blend)


@dataclass(frozen=True)
class TileGrid:
    """Tiles of one frame size, in row-major order. Arrays are (..., H, W)."""

    height: int
    width: int
    rows: Axis
    columns: Axis

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def padded(self) -> tuple[int, int]:
        """(H, W) that `cut` takes and `blend` returns."""
        return self.rows.length, self.columns.length

    def pad(self, frame: np.ndarray) -> np.ndarray:
        """Frame (..., height, width) -> (..., *padded), reflected at the bottom and right.

        Where a single reflection is too short it is repeated; an axis of one pixel is replicated.
        """
        bottom, right = self.padded[0] - self.height, self.padded[1] - self.width
        if not bottom and not right:
            return frame
        return np.pad(frame, [(0, 0)] * (frame.ndim - 2) + [(0, bottom), (0, right)], mode="reflect")

    def crop(self, padded: np.ndarray) -> np.ndarray:
        """(..., *padded) -> (..., height, width)."""
        return padded[..., : self.height, : self.width]

    def cut(self, padded: np.ndarray) -> Iterator[np.ndarray]:
        """Views (..., tile_h, tile_w) of a padded array, one per tile."""
        for y, x in self._starts():
            yield padded[..., y : y + self.rows.tile, x : x + self.columns.tile]

    def blend(self, tiles: Iterable[np.ndarray]) -> np.ndarray:
        """One result (..., tile_h, tile_w) per tile, in order -> (..., *padded) float32.

        Tiles are consumed one at a time, so a generator keeps only one in memory.
        """
        *_, total = self.blending(tiles)
        return total

    def blending(self, tiles: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Like `blend`, with the sum so far after each tile: the same array every time, complete with the last."""
        weights = ((wy[:, None] * wx) for wy in self.rows.weights for wx in self.columns.weights)
        total = np.zeros(())
        for (y, x), weight, tile in zip(self._starts(), weights, tiles, strict=True):
            if total.ndim == 0:
                total = np.zeros(tile.shape[:-2] + self.padded, np.float32)
            total[..., y : y + self.rows.tile, x : x + self.columns.tile] += tile * weight
            yield total

    def scaled(self, divisor: int) -> TileGrid:
        """The same tiles on maps that are `divisor` times coarser than the padded frame."""
        rows, columns = self.rows.scaled(divisor), self.columns.scaled(divisor)
        return TileGrid(rows.length, columns.length, rows, columns)

    def _starts(self) -> Iterator[tuple[int, int]]:
        return ((y, x) for y in self.rows.starts for x in self.columns.starts)


def tile_grid(
    height: int, width: int, *, tile: tuple[int, int], overlap: int | None = None, blend: Blend = "feather"
) -> TileGrid:
    """Grid of tiles over frames (height, width).

    Args:
        height: frame height, at least 1.
        width: frame width, at least 1.
        tile: (h, w) of a tile, multiples of 4.
        overlap: pixels shared by neighbouring tiles, a multiple of 4 below the tile; a quarter of it by default.
        blend: see the module.

    Raises:
        UsageError: sizes that do not fit together.
    """
    if min(height, width, *tile) < 1 or any(side % GRID for side in tile):
        raise UsageError(f"expected tiles that are multiples of {GRID} and frames of at least 1x1, got {tile = }, "
                         f"{height}x{width}; export a plan with another --tile")  # fmt: skip
    if overlap is None:
        overlap = min(tile) // 32 * 8
    if not 0 <= overlap < min(tile) or overlap % GRID:
        raise UsageError(f"expected a tile overlap that is a multiple of {GRID} below {min(tile)}, got {overlap}; "
                         f"try --tile-overlap {min(tile) // 32 * 8}")  # fmt: skip
    rows, columns = (
        Axis(max(-(-side // GRID) * GRID, area), area, overlap, blend)
        for side, area in zip((height, width), tile, strict=True)
    )
    return TileGrid(height, width, rows, columns)


def flow_grid(frame: tuple[int, int], *, size: tuple[int, int], overlap: int) -> TileGrid:
    """Areas that flow is computed on: they share what tiles share, but no more than a quarter of a side.

    Args:
        frame: (H, W) of the padded frames, multiples of 4.
        size: (h, w) of an area.
        overlap: pixels shared by neighbouring tiles.
    """
    return tile_grid(*frame, tile=size, overlap=min(overlap, min(size) // 32 * 8))


class TiledFlow:
    """A flow estimator for frames of any size, from one for a static size: estimated on tiles, feathered at 1/4 scale.

    Args:
        estimator: estimator for areas of `size`.
        size: (h, w) of its areas.
        frame: (H, W) of the frames, multiples of 4.
        overlap: pixels shared by neighbouring tiles of frames; see `flow_grid`.
    """

    def __init__(
        self, estimator: FlowEstimator, *, size: tuple[int, int], frame: tuple[int, int], overlap: int
    ) -> None:
        self._estimator = estimator
        self._grid = flow_grid(frame, size=size, overlap=overlap)
        self._quarter = (frame[0] // GRID, frame[1] // GRID)

    def features(self, frame: np.ndarray) -> list[Any]:
        """Frame (3, H, W) -> features of each flow tile."""
        padded = self._grid.pad(frame)
        return [self._estimator.features(np.ascontiguousarray(tile)) for tile in self._grid.cut(padded)]

    def flow(self, a: list[Any], b: list[Any]) -> Pair:
        """Features of frames t and t + 1 -> (backward, forward), each (2, H/4, W/4)."""
        pairs = zip(a, b, strict=True)
        if isinstance(self._estimator, FlowsSideBySide):
            flows = self._estimator.flows(pairs)
        else:
            flows = (self._estimator.flow(x, y) for x, y in pairs)
        height, width = self._quarter
        backward, forward = self._grid.scaled(GRID).blend(map(np.stack, flows))[..., :height, :width]
        return backward, forward
