"""A job with its video and plan open; for several jobs, one plan for videos of any size."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Self

import av.error

from bsst.errors import OutOfMemoryError, UsageError
from bsst.plan.archive import Plan, open_plan
from bsst.plan.manifest import Manifest
from bsst.runtime.estimate import Workload, plan_workload, require_memory
from bsst.runtime.frames.fit import fitting_plan
from bsst.runtime.frames.restorer import Restorer
from bsst.runtime.jobs.options import Execution, OutputFormat, threads_of_worker
from bsst.runtime.jobs.output import Output
from bsst.runtime.jobs.part import Part
from bsst.runtime.jobs.report import Meter
from bsst.runtime.network.network import DEFAULT_PLAN, Network, load_network
from bsst.runtime.network.planned import Planned
from bsst.runtime.restore import Tiling
from bsst.runtime.trace import Trace
from bsst.runtime.video.sources import Reader
from bsst.system import memory_bytes

__all__ = ["OpenedJob", "OpenedPlan", "enough_memory", "memory_warnings", "open_restorer"]


@dataclass(frozen=True, kw_only=True)
class OpenedJob:
    """What `deblur` was asked for, checked, with all that it takes."""

    video: Path
    """File, folder of pictures or pattern; "-" for standard input."""
    reader: Reader
    """Of the video, not iterated yet."""
    output: Output
    """Where the result goes."""
    plan: object
    """As `deblur` got it; where other processes open it, a file or None."""
    restorer: Restorer | Planned
    """The plan, opened, or to be opened by other processes."""
    tiling: Tiling
    output_format: OutputFormat
    execution: Execution
    """Its `hwaccel` is decided: "auto" only where the plan runs on a GPU."""
    meter: Meter
    """Told how it goes."""
    part: Part | None
    rate: Fraction | None
    """Pictures a second, where pictures are read."""
    trace: Trace | None

    def restorer_here(self, instead: str) -> Restorer:
        """The opened plan of a job that this process does alone.

        Raises:
            UsageError: other processes would; the message says what to do instead.
        """
        if isinstance(self.restorer, Planned):
            raise UsageError(instead)
        return self.restorer


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


def open_restorer(
    plan: str | Path | Restorer | OpenedPlan | None,
    reader: Reader,
    tiling: Tiling,
    execution: Execution,
    trace: Trace | None,
    stack: ExitStack,
) -> Restorer | Planned:
    """An opened plan as it is; a plan file opened until the stack ends, or only read where others run it."""
    elsewhere = execution.devices or execution.ray
    if plan is not None and not isinstance(plan, str | Path):
        if elsewhere:
            raise UsageError("expected a plan file for workers, got an opened plan, which cannot travel; pass its path")
        if isinstance(plan, OpenedPlan):
            if tiling.tile is not None:
                return plan.of_tile(tiling.tile)
            return plan.fitting(reader.info.height, reader.info.width, overlap=tiling.tile_overlap)
        return plan
    fitting = _fitting(plan, reader, tiling)
    if elsewhere:
        return Planned(fitting)
    network = load_network(
        fitting,
        threads=execution.threads,
        in_flight=execution.in_flight,
        lanes=min(execution.in_flight, _clips(fitting, reader, tiling)),
        trace=trace,
    )
    return stack.enter_context(closing(network))


def memory_warnings(restorer: Restorer | Planned, reader: Reader, tiling: Tiling, execution: Execution) -> list[str]:
    """What is known of memory before the work begins; of restorers without a plan, and of a cluster, nothing is."""
    if not isinstance(restorer, Network | Planned) or execution.ray:
        return []
    work = _workload(restorer.manifest, reader, tiling)
    if isinstance(restorer, Network):
        processes, in_flight, lanes = 1, restorer.in_flight, restorer.lanes
    else:
        processes = min(len(execution.devices), work.windows or len(execution.devices))  # no window is in two segments
        in_flight, lanes = execution.in_flight, min(execution.in_flight, threads_of_worker(execution))
    free, most = memory_bytes()
    warning = require_memory(
        restorer.manifest,
        work,
        in_flight=in_flight,
        lanes=lanes,
        on_gpu=restorer.on_gpu,
        free=free,
        most=most,
        processes=processes,
    )
    return [warning] if warning else []


def _fitting(plan: str | Path | None, reader: Reader, tiling: Tiling) -> Plan:
    """A plan file in the shape of tiles that suits the video."""
    opened = open_plan(DEFAULT_PLAN if plan is None else Path(plan))
    if tiling.tile is not None:
        return opened.with_tile(tiling.tile)
    return fitting_plan(opened, reader.info.height, reader.info.width, overlap=tiling.tile_overlap)


def _clips(plan: Plan, reader: Reader, tiling: Tiling) -> int:
    """Clips of a video at least, as far as its header tells: more than that cannot run side by side."""
    work = _workload(plan.manifest, reader, tiling)
    return sys.maxsize if work.windows is None else work.windows * work.tiles


def _workload(manifest: Manifest, reader: Reader, tiling: Tiling) -> Workload:
    info = reader.info
    return plan_workload(
        manifest,
        frames=info.frames or None,
        height=info.height,
        width=info.width,
        window_overlap=tiling.window_overlap,
        tile_overlap=tiling.tile_overlap,
    )


@contextmanager
def enough_memory(restorer: Restorer | Planned, reader: Reader) -> Iterator[None]:
    """Say what it takes where memory runs out.

    Raises:
        OutOfMemoryError: it did.
    """
    try:
        yield
    except (MemoryError, av.error.BlockingIOError) as error:  # as PyAV says where no thread could be started
        raise OutOfMemoryError(
            f"expected memory for {restorer.frames} frames of {reader.info.height}x{reader.info.width} (height x "
            f"width), ran out; use a plan with fewer frames or scale the video down"
        ) from error
