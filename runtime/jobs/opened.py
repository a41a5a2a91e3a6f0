"""One plan for videos of any size, one after another."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from bsst.plan.archive import Plan, open_plan
from bsst.runtime.frames.fit import fitting_plan
from bsst.runtime.network.network import DEFAULT_PLAN, Network, load_network
from bsst.runtime.trace import Trace

__all__ = ["OpenedPlan"]


class OpenedPlan:
    """Loads its network when that is first needed, and again for another shape of tiles only. Use as a context manager.

    Args:
        path: plan file; the packaged plan by default.
        threads: see `load_network`.
        in_flight: see `load_network`.
        trace: see `load_network`.

    Raises:
        PlanError: the plan cannot be used.
    """

    def __init__(
        self, path: Path | None = None, *, threads: int = 0, in_flight: int = 2, trace: Trace | None = None
    ) -> None:
        self.plan: Plan = open_plan(DEFAULT_PLAN if path is None else path)
        self._threads, self._in_flight, self._trace = threads, in_flight, trace
        self._network: Network | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def fitting(self, height: int, width: int, *, overlap: int | None = None) -> Network:
        """The network for frames of a size; see `fitting_plan`."""
        return self.of_tile(fitting_plan(self.plan, height, width, overlap=overlap).manifest.tile)

    def of_tile(self, tile: tuple[int, int]) -> Network:
        """The network in one of the plan's shapes of tiles; the one before is closed."""
        if self._network is not None and self._network.tile != tile:
            self._close()
        if self._network is None:
            self._network = load_network(
                self.plan.with_tile(tile), threads=self._threads, in_flight=self._in_flight, trace=self._trace
            )
        return self._network

    def _close(self) -> None:
        if self._network is not None:
            self._network.close()
            self._network = None
