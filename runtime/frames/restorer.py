"""What a plan offers to the frame pipeline: flow between frames and restoration of one tile of one window.

`runtime/network/network.py` implements it over streams of a device; tests implement it in a few lines of numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["FlowEstimator", "FlowsSideBySide", "Pair", "Restored", "Restorer"]

Pair = tuple[np.ndarray, np.ndarray]
"""Flows between frames t and t + 1: (backward, forward). Each (2, h/4, w/4) float32, channel 0 = x, in pixels at 1/4
scale. `backward` lies on frame t and points to t + 1; `forward` lies on frame t + 1 and points to t."""


class FlowEstimator(Protocol):
    """Optical flow between neighbouring frames, split so that the work of a frame is done once per frame."""

    def features(self, frame: np.ndarray) -> Any:
        """Frame (3, h, w), float32 RGB in [0, 1] -> whatever `flow` needs of it."""
        ...

    def flow(self, a: Any, b: Any) -> Pair:
        """Features of frames t and t + 1 -> flows between them."""
        ...


@runtime_checkable
class FlowsSideBySide(Protocol):
    """An estimator that may work on several pairs at once."""

    def flows(self, pairs: Iterable[tuple[Any, Any]]) -> Iterator[Pair]:
        """`FlowEstimator.flow` of each pair of features, in order."""
        ...


class Restored(Protocol):
    """One clip under way."""

    def result(self) -> np.ndarray:
        """Wait for the restored clip, (T, 3, h, w) float32, not clamped; called once."""
        ...


class Restorer(FlowEstimator, Protocol):
    """One plan, opened. All sizes are static.

    One thread at a time asks for flow, one thread at a time submits and takes results, and the two may differ.
    """

    @property
    def line(self) -> str:
        """What runs the plan, for messages; "" where there is nothing to say."""
        ...

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU runs it."""
        ...

    @property
    def in_flight(self) -> int:
        """Clips that may be under way at once, at least 1; 1 means that nothing happens beside anything else."""
        ...

    @property
    def frames(self) -> int:
        """T, frames of a window."""
        ...

    @property
    def tile(self) -> tuple[int, int]:
        """(h, w) of the area that `restore` takes; multiples of 4."""
        ...

    @property
    def flow_size(self) -> tuple[int, int]:
        """(h, w) of the area that `features` takes; multiples of 4; may equal `tile`."""
        ...

    @property
    def tile_overlap(self) -> int:
        """Recommended pixels shared by neighbouring tiles, a multiple of 4."""
        ...

    @property
    def window_overlap(self) -> int:
        """Recommended frames shared by neighbouring windows."""
        ...

    def submit(self, clip: Sequence[np.ndarray], backward: np.ndarray, forward: np.ndarray) -> Restored:
        """Start on a clip of T frames (3, h, w), float32 RGB in [0, 1], and flows (T-1, 2, h/4, w/4).

        At most `in_flight` results may be outstanding.
        """
        ...

    def fallback(self) -> Restorer | None:
        """The same network in float32, for what is not finite here; None where there is none.

        Opened by the first call and closed with this one. One thread at a time asks for it and uses it.
        """
        ...

    def cancel(self) -> None:
        """Give up everything under way, here and in `fallback`; threads that wait for it get an error.

        Called from any thread.
        """
        ...
