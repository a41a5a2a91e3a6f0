"""`bsst run --dry-run` and `--max-memory`: look at a video and a plan, measure one clip, and say what a job takes."""

from __future__ import annotations

import dataclasses
import math
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

from bsst.cli.progress import clock
from bsst.errors import OutOfMemoryError, UsageError
from bsst.plan.archive import Plan, open_plan
from bsst.plan.manifest import Manifest
from bsst.runtime.estimate import Measured, Workload, choose_in_flight, job_bytes, measure, need_bytes, plan_workload
from bsst.runtime.frames.fit import fitting_plans
from bsst.runtime.jobs.part import Part
from bsst.runtime.network.network import DEFAULT_PLAN, load_network
from bsst.runtime.video.sources import open_reader

__all__ = ["Job"]


class Job:
    """A plan, a video, and one clip measured with it.

    Args:
        video: file to read; only its header and packets are.
        plan: plan file; None for the packaged one.
        threads: CPU threads of the network; 0 for all cores.
        in_flight: clips under way at once, at most.
        limit: bytes that the job may take; a shape of tiles that takes more gives way to a smaller one. None for any.
        window_overlap: see `deblur_frames`.
        tile_overlap: see `deblur_frames`.
        part: what of the video is restored; all by default.
        rate: pictures a second, where pictures are read.
    """

    def __init__(
        self,
        video: Path,
        plan: Path | None,
        *,
        threads: int,
        in_flight: int,
        limit: int | None = None,
        window_overlap: int | None,
        tile_overlap: int | None,
        part: Part | None = None,
        rate: Fraction | None = None,
    ) -> None:
        if str(video) == "-":
            raise UsageError("expected a file to look at before a job, got a pipe, which is read once; save it first")
        with open_reader(video, rate=rate) as reader:
            info = reader.info
            reader.require_one_size(part.over if part else None)
        frames = (part.count(info.frames, info.rate) if part else info.frames) or None

        def cut(plan: Plan) -> Workload:
            return plan_workload(
                plan.manifest,
                frames=frames,
                height=info.height,
                width=info.width,
                window_overlap=window_overlap,
                tile_overlap=tile_overlap,
            )

        def run(plan: Plan) -> tuple[str, Measured]:
            with load_network(plan, threads=threads, in_flight=in_flight) as network:
                return network.line, measure(network)

        plans = fitting_plans(open_plan(plan or DEFAULT_PLAN), info.height, info.width, overlap=tile_overlap)
        best, smallest, seen = plans[0], plans[-1], None
        if limit is not None and len(plans) > 1:
            seen = run(smallest)  # to run a larger one may already be too much
            plans = [p for p in plans[:-1] if _fits(p.manifest, smallest.manifest, cut(p), seen[1], limit)] + [smallest]
        chosen = plans[0]
        self.tile = None if chosen is best else chosen.manifest.tile
        """Of a smaller shape than the video would get without a limit."""
        self.manifest: Manifest = chosen.manifest
        self.work: Workload = cut(chosen)
        self.backend, self.measured = seen if seen and chosen is smallest else run(chosen)
        self.in_flight = in_flight
        if limit is not None:
            self.in_flight = choose_in_flight(
                self.manifest,
                self.work,
                limit=limit,
                wanted=in_flight,
                measured=None if self.manifest.compiled else self.measured,
            )

    def table(self) -> str:
        """What the job takes, in a few lines."""
        work, manifest, in_flight = self.work, self.manifest, self.in_flight
        need, seconds = (
            need_bytes(manifest, work, in_flight=in_flight, lanes=self.measured.lanes),
            self.measured.seconds(work),
        )
        (height, width), (flow_height, flow_width) = manifest.tile, manifest.flow_size
        rows = {
            "backend": self.backend,
            "frames": "unknown" if work.frames is None else str(work.frames),
            "windows": f"{work.windows or 'unknown'}, of {manifest.frames} frames, one every {work.stride}; hard cuts "
            "add some",
            "tiles": f"{work.tiles} of {height}x{width} in each window; flow on {work.flow_tiles} of "
            f"{flow_height}x{flow_width} pixels (height x width)",
            "computed": "unknown"
            if work.computed is None
            else f"{work.computed:.2f} times the video's own pixels: what tiles and windows share is computed again",
            "planned": f"{_megabytes(need.device)} on the device, {in_flight} in flight; {_megabytes(need.copies)} to "
            f"copy from and to; at most {_megabytes(need.frames)} of frames",
            "measured": f"{_megabytes(self.measured.peak_bytes)} taken by this process after one clip, engines and all",
            "memory": "told by bsst inspect",
            "time": "unknown",
        }
        if not manifest.compiled:
            total = job_bytes(self.measured, manifest, work, in_flight=in_flight)
            rows["memory"] = f"about {_megabytes(total)} of the process at most, decoder and encoder included"
        if seconds is not None:
            rows["time"] = f"about {clock(seconds)} by clips measured here, without decoding and encoding"
        return "\n".join(f"{name:9} {value}" for name, value in rows.items())


def _fits(manifest: Manifest, smaller: Manifest, work: Workload, measured: Measured, limit: int) -> bool:
    """Whether one clip in tiles of another shape fits into the memory, by what a smaller shape was seen to take."""
    ratio = math.prod(manifest.tile) / math.prod(smaller.tile)
    clip = round(ratio * measured.lane_bytes)
    grown = dataclasses.replace(measured, peak_bytes=measured.peak_bytes - measured.lane_bytes + clip, lane_bytes=clip)
    with suppress(OutOfMemoryError):
        return choose_in_flight(manifest, work, limit=limit, wanted=1, measured=grown) == 1
    return False


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
