"""A line plot as the coordinates of an inline SVG: decibels over frames or steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Drawn", "Line", "Plot", "Tick", "drift_plot"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 220, 46, 110, 10, 34
COLOURS = ("#1f6f8b", "#c8553d", "#588157", "#7b5ea7", "#b08900", "#3d405b")


@dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    points: Sequence[tuple[int, float]]
    """(frame or step, dB), ascending."""


@dataclass(frozen=True)
class Drawn:
    """One curve in pixels."""

    name: str
    colour: str
    points: str
    """Value of the attribute `points` of a polyline."""
    label: tuple[float, float] | None
    """Where its name goes; None where the names would overlap."""


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis, in pixels."""

    position: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Everything that the template draws."""

    width: int
    height: int
    area: tuple[int, int, int, int]
    """Left, top, right, bottom of the axes."""
    lines: tuple[Drawn, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    unit: str
    """What x counts."""


def drift_plot(lines: Sequence[Line], *, unit: str) -> Plot:
    """Scale curves into one plot; values that are not finite are left out.

    Args:
        lines: at least one curve.
        unit: what x counts.
    """
    finite = [Line(line.name, [(x, y) for x, y in line.points if math.isfinite(y)]) for line in lines]
    xs = [x for line in finite for x, _ in line.points] or [0]
    ys = [y for line in finite for _, y in line.points] or [0.0]
    step = _step(max(ys) - min(ys))
    low, high = math.floor(min(ys) / step) * step, math.ceil(max(ys) / step) * step
    high = high if high > low else low + step
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    x_scale = (right - LEFT) / max(max(xs) - min(xs), 1)
    y_scale = (bottom - TOP) / (high - low)

    def place(x: float, y: float) -> tuple[float, float]:
        return round(LEFT + (x - min(xs)) * x_scale, 1), round(bottom - (y - low) * y_scale, 1)

    levels = [low + index * step for index in range(round((high - low) / step) + 1)]
    few = len(finite) <= len(COLOURS)
    x_step = max(1, round(_step(max(xs) - min(xs))))
    return Plot(
        width=WIDTH,
        height=HEIGHT,
        area=(LEFT, TOP, right, bottom),
        lines=tuple(
            Drawn(
                name=line.name,
                colour=COLOURS[index % len(COLOURS)],
                points=" ".join(f"{px},{py}" for px, py in (place(*point) for point in line.points)),
                label=(right + 8, TOP + 12 + 16 * index) if few and line.points else None,
            )
            for index, line in enumerate(finite)
        ),
        x_ticks=tuple(Tick(place(x, low)[0], str(x)) for x in range(min(xs), max(xs) + 1, x_step)),
        y_ticks=tuple(Tick(place(min(xs), y)[1], f"{y:g}") for y in levels),
        unit=unit,
    )


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten that divides a span into 3 to 8 parts."""
    if span <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(span / 4))
    return float(next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 8))
