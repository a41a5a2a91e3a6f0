"""Which shape of a plan's tiles suits a video: few pixels computed twice, and not much memory for little less of it."""

from __future__ import annotations

import math

from bsst.plan.archive import Plan
from bsst.runtime.frames.tiles import flow_grid, tile_grid

__all__ = ["fitting_plan", "fitting_plans"]

WORTH = 7 / 6
"""A shape gives way to one of at most half its tile that computes at most so many times its pixels. Of the packaged
plan 1920x1080 takes 256x256, not 384x448: 2.6 times the memory for an eighth less work."""


def fitting_plan(plan: Plan, height: int, width: int, *, overlap: int | None = None) -> Plan:
    """The first of `fitting_plans`."""
    return fitting_plans(plan, height, width, overlap=overlap)[0]


def fitting_plans(plan: Plan, height: int, width: int, *, overlap: int | None = None) -> list[Plan]:
    """The plan in each of its shapes that restores frames (height, width) in the fewest pixels, or with smaller tiles.

    Larger tiles take more memory. Of the shapes that are worth it (`WORTH`), beginning with the one that computes the
    fewest pixels and of equals has the smallest tiles, each is followed by the best of those that are smaller still.

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

    able = [plan, *(plan.shaped(shape) for shape in plan.manifest.shapes if shared < min(shape.tile))]
    costs = [(cost(p.manifest.tile, p.manifest.flow_size), p) for p in able]
    worth = [
        (own, candidate)
        for own, candidate in costs
        if not any(2 * other[2] <= own[2] and other[0] <= WORTH * own[0] for other, _ in costs)
    ]
    chosen: list[Plan] = []
    for _, candidate in sorted(worth, key=lambda pair: pair[0]):
        if not chosen or math.prod(candidate.manifest.tile) < math.prod(chosen[-1].manifest.tile):
            chosen.append(candidate)
    return chosen
