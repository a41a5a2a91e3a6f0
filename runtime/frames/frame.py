"""A frame on its way in, and what comes out: windows of restored frames, with the progress between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["RestoredWindow", "SourceFrame", "TileDone"]


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One frame of a video, with whatever belongs to it."""

    pixels: np.ndarray
    """(3, H, W) float32 RGB, nominally in [0, 1]."""
    time: Any = None
    """Comes back in `RestoredWindow.times`; nothing between reads it. A job keeps timestamp and duration here."""
    cut: bool = False
    """Starts a new scene."""


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
