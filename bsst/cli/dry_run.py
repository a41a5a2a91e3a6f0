"""`bsst-run --dry-run` and `--max-memory`: look at a video and a plan, measure one clip, and say what a job takes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from bsst.cli.progress import clock
from bsst.errors import UsageError
from bsst.plan.archive import open_plan
from bsst.plan.manifest import Manifest
from bsst.runtime.estimate import Measured, Workload, choose_in_flight, job_bytes, measure, need_bytes, plan_workload
from bsst.runtime.frames.fit import fitting_plan
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
        window_overlap: int | None,
        tile_overlap: int | None,
        part: Part | None = None,
        rate: Fraction | None = None,
    ) -> None:
        if str(video) == "-":
            raise UsageError("expected a file to look at before a job, got a pipe, which is read once; save it first")
        with open_reader(video, rate=rate) as reader:
            info = reader.info
        fitting = fitting_plan(open_plan(plan or DEFAULT_PLAN), info.height, info.width, overlap=tile_overlap)
        self.manifest: Manifest = fitting.manifest
        self.work: Workload = plan_workload(
            self.manifest,
            frames=(part.count(info.frames, info.rate) if part else info.frames) or None,
            height=info.height,
            width=info.width,
            window_overlap=window_overlap,
            tile_overlap=tile_overlap,
        )
        with load_network(fitting, threads=threads, in_flight=in_flight) as network:
            self.backend = network.line
            self.measured: Measured = measure(network)

    def in_flight(self, limit: int, wanted: int) -> int:
        """Clips in flight that fit into `limit` bytes; see `choose_in_flight`."""
        compiled = self.manifest.compiled
        measured = None if compiled else self.measured
        return choose_in_flight(self.manifest, self.work, limit=limit, wanted=wanted, measured=measured)

    def table(self, in_flight: int) -> str:
        """What the job takes, in a few lines."""
        work, manifest = self.work, self.manifest
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
            "memory": "told by bsst-inspect",
            "time": "unknown",
        }
        if not manifest.compiled:
            total = job_bytes(self.measured, manifest, work, in_flight=in_flight)
            rows["memory"] = f"about {_megabytes(total)} of the process at most, without decoder and encoder"
        if seconds is not None:
            rows["time"] = f"about {clock(seconds)} by clips measured here, without decoding and encoding"
        return "\n".join(f"{name:9} {value}" for name, value in rows.items())


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
