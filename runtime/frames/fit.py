"""Which shape of a plan's tiles computes the fewest pixels of a video."""

from __future__ import annotations

import math

from bsst.plan.archive import Plan
from bsst.runtime.frames.tiles import flow_grid, tile_grid

__all__ = ["fitting_plan"]


def fitting_plan(plan: Plan, height: int, width: int, *, overlap: int | None = None) -> Plan:
    """The plan in the shape that restores frames (height, width) in the fewest pixels; of equals the smallest.

    Args:
        plan: with one or more shapes.
        height: of a frame.
        width: of a frame.
        overlap: pixels shared by neighbouring tiles; what the plan recommends by default.

    Raises:
        UsageError: an overlap that does not fit the plan.
    """
    shared = plan.manifest.tile_overlap if overlap is None else overlap

    def cost(tile: tuple[int, int], flow_size: tuple[int, int]) -> tuple[int, int, int]:
        grid = tile_grid(height, width, tile=tile, overlap=shared)
        areas = flow_grid(grid.padded, size=flow_size, overlap=shared)
        return len(grid) * math.prod(tile), len(areas) * math.prod(flow_size), math.prod(tile)

    best, lowest = plan, cost(plan.manifest.tile, plan.manifest.flow_size)
    for shape in plan.manifest.shapes:
        if shared < min(shape.tile) and (pixels := cost(shape.tile, shape.flow_size)) < lowest:
            best, lowest = plan.shaped(shape), pixels
    return best
