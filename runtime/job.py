"""One video file to one deblurred video file.

A job works in a hidden folder beside its output, segment by segment (`bsst.runtime.jobs`). The same job started again,
after an error, Ctrl-C, a kill or a power cut, goes on there. Nothing appears under the final name before the segments
were joined, read back, and match the source in number of frames and timestamps.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any

from bsst.errors import OutOfMemoryError, OutputError, UsageError, VerificationError
from bsst.files import what_is_at
from bsst.plan.archive import open_plan
from bsst.runtime.estimate import plan_workload
from bsst.runtime.frames.restorer import Restorer
from bsst.runtime.jobs.processes import restore_in_processes
from bsst.runtime.jobs.run import restore_run
from bsst.runtime.jobs.segment import Segment, plan_segments, segment_length, stretches
from bsst.runtime.jobs.store import joined_packets
from bsst.runtime.jobs.survey import Survey, take_survey
from bsst.runtime.jobs.work import Finished, WorkFolder, source_key
from bsst.runtime.jobs.worker import Task
from bsst.runtime.network.network import DEFAULT_PLAN, load_network
from bsst.runtime.restore import Tiling
from bsst.runtime.trace import Trace
from bsst.runtime.video.encoder import Target
from bsst.runtime.video.quality import DEFAULT_CRF
from bsst.runtime.video.reader import HWAccelChoice, VideoReader, packet_times
from bsst.runtime.video.writer import CONTAINERS, VideoWriter

__all__ = ["Execution", "Observer", "Progress", "Result", "Tiling", "deblur", "default_output"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """State of a running job."""

    frames: int
    """Frames written."""
    work: float
    """Frames restored, including the finished part of the current window."""
    total: int | None
    """Frames that the file announces; None when unknown."""
    fps: float
    """Frames restored per second so far."""
    eta_seconds: float | None
    """Seconds left; None when the total or the speed is unknown."""


@dataclass(frozen=True, kw_only=True)
class Observer:
    """Whom a job tells how it goes, in the thread that called it; nobody by default."""

    info: Callable[[str], None] = lambda line: None
    """What runs the plan, and what decodes and encodes, before the first frame."""
    progress: Callable[[Progress], None] = lambda progress: None
    """Called after each tile and each frame."""
    warning: Callable[[str], None] = lambda message: None
    """Called with each warning as soon as it is known."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What of this machine a job uses. An opened plan has its own threads and clips in flight."""

    threads: int = 0
    """Threads of the network; 0 for all cores."""
    in_flight: int = 2
    """Clips under way at once; 1 for the least memory."""
    devices: tuple[str, ...] = ()
    """"cpu" or "cuda:<index>", one for each process that restores segments; none for this process alone."""
    hwaccel: HWAccelChoice = "auto"
    """Decode and encode on an NVIDIA GPU; "auto" does for plans that run on one, where its codecs work."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished job."""

    output: Path
    frames: int
    retried: int
    """Frames of windows whose result was not finite and that were restored again in float32."""
    guarded: int
    """Frames in which an implausible change was blended back to the source."""
    repaired: int
    """Frames whose restoration was not finite, in float32 either; the source's frame stands in for each."""
    seconds: float
    """Wall-clock time from the first frame to the verified file."""
    fps: float
    warnings: tuple[str, ...]


def deblur(
    video: str | Path,
    out: str | Path | None = None,
    plan: str | Path | Restorer | None = None,
    *,
    overwrite: bool = False,
    resume: bool = True,
    keep_work: bool = False,
    lossless: bool = False,
    crf: int = DEFAULT_CRF,
    tiling: Tiling | None = None,
    execution: Execution | None = None,
    trace: Trace | None = None,
    observer: Observer | None = None,
) -> Result:
    """Deblur a video file.

    Args:
        video: file to read.
        out: file to write, ending in .mp4, .m4v, .mov, .mkv or .webm; `<stem>.deblurred<suffix>` beside the video by
            default, in Matroska when the source's container cannot be written.
        plan: plan file, or an opened plan, which stays open; the packaged plan by default.
        overwrite: replace an existing output.
        resume: go on where the same job was interrupted; otherwise what it finished is thrown away.
        keep_work: leave the work folder, with the encoded segments, beside the output.
        lossless: keep the restored frames exactly (FFV1 in .mkv, lossless H.264 in .mp4).
        crf: quality of the encoder, 0 (best) to 51.
        tiling: how the video is cut up; as the plan recommends by default.
        execution: what of this machine is used.
        trace: records what happens when; with an opened plan, decoding and encoding alone.
        observer: told how it goes.

    Raises:
        UsageError: options that do not fit together.
        InputError: the video cannot be read.
        OutputError: the result exists already or cannot be written.
        ModelError: the plan cannot be used.
        VerificationError: the finished file does not match the source.
        OutOfMemoryError: the window does not fit into memory.
    """
    video = Path(video)
    out = default_output(video) if out is None else Path(out)
    container = _container(video, out, overwrite=overwrite, crf=crf)
    execution, observer = execution or Execution(), observer or Observer()
    warnings: list[str] = []

    def warn(messages: list[str]) -> None:
        for message in messages:
            if message not in warnings:
                warnings.append(message)
                observer.warning(message)

    with VideoReader(video) as reader, ExitStack() as stack:
        if plan is None or isinstance(plan, str | Path):
            path = None if plan is None else Path(plan)
            clips = _clips(path, reader, tiling or Tiling())
            network = load_network(
                path,
                threads=execution.threads,
                in_flight=execution.in_flight,
                lanes=min(execution.in_flight, clips),
                trace=trace,
            )
            restorer: Restorer = stack.enter_context(closing(network))
        else:
            restorer = plan
        hwaccel = "none" if execution.hwaccel == "auto" and not restorer.on_gpu else execution.hwaccel
        reader.accelerate(hwaccel)
        tiling = tiling or Tiling()
        options = {"lossless": lossless, "crf": crf, "hwaccel": hwaccel, **asdict(tiling)}
        work = stack.enter_context(WorkFolder(out, _key(video, restorer, options), resume=resume))
        unfinished = work.path / "result.tmp"  # on the output's file system, so that the rename is atomic
        meter = _Meter(reader.info.frames or None, observer.progress)
        done = False
        try:
            with VideoWriter(
                unfinished, container, reader.info, source=video, lossless=lossless, crf=crf, hwaccel=hwaccel
            ) as writer:
                if restorer.line:
                    observer.info(restorer.line)
                observer.info(f"decoder {reader.decoder}, encoder {writer.encoder}")
                warn(reader.warnings + writer.warnings)
                survey = work.survey()
                if survey is None:
                    survey = take_survey(reader, scene_cuts=tiling.scene_cuts)
                    survey = replace(survey, warnings=tuple(reader.warnings))
                    work.keep_survey(survey)
                warn(list(survey.warnings))
                segments = plan_segments(
                    survey.scenes,
                    len(survey.times),
                    length=restorer.frames,
                    overlap=restorer.window_overlap if tiling.window_overlap is None else tiling.window_overlap,
                    wanted=segment_length(reader.info.height, reader.info.width),
                )
                missing = [segment for segment in segments if segment not in work.finished]
                meter.resume(len(survey.times), [work.finished[s] for s in segments if s in work.finished])
                if len(missing) < len(segments):
                    found = f"{len(segments) - len(missing)} of {len(segments)} segments"
                    observer.info(f"goes on with an unfinished job: {found} are there, {meter.frames} frames")
                if execution.devices:
                    tasks = [
                        Task(
                            video=video.absolute(),
                            folder=work.path.absolute(),
                            run=(segment,),
                            tiling=tiling,
                            target=writer.target,
                            hwaccel=hwaccel,
                        )
                        for segment in missing
                    ]
                    lines = _elsewhere(tasks, plan, restorer, execution)
                else:
                    lines = _here(missing, video, restorer, tiling, hwaccel, survey, writer.target, work, trace, meter)
                for line in lines:
                    work.add(line)
                    if line.fallback and not meter.fallen_back:
                        frames = f"frames {line.segment.keep_from} to {line.segment.keep_to - 1}"
                        again = "restored again in float32, as they were not finite; so is every other like them"
                        warn([f"windows among {frames} {again}"])
                    meter.finished(line)
                    meter.worked(meter.restored)
                paths = [work.segment_path(segment) for segment in segments]
                for packet in joined_packets(paths, segments, survey, reader.info):
                    writer.write_packet(packet)
            _verify(unfinished, survey.times, reader.info.time_base, earliest=writer.earliest)
            _publish(unfinished, out, overwrite=overwrite)
            done = True
        except MemoryError as error:
            raise OutOfMemoryError(
                f"expected memory for {restorer.frames} frames of {reader.info.width}x{reader.info.height}, ran out; "
                f"use a plan with fewer frames or scale the video down"
            ) from error
        except KeyboardInterrupt as error:
            done = not work.finished
            if not done:
                raise KeyboardInterrupt(
                    f"interrupted; {meter.frames} frames are kept in {work.path}, run the same command to go on"
                ) from error
            raise
        except VerificationError:
            done = True  # whatever is wrong, it would be wrong again
            raise
        finally:
            with suppress(OSError):  # of a read-only folder, which has been reported
                unfinished.unlink(missing_ok=True)
            if (done or not work.finished) and not keep_work:
                work.remove()
    warn(reader.warnings + writer.warnings)
    if meter.guarded:
        places = "in places where the change was implausible; --no-guard shows the network's own picture"
        warn([f"{meter.guarded} of {meter.frames} frames were left as they were {places}"])
    if meter.repaired:
        count = f"{len(meter.repaired)} of {meter.frames} frames could not be restored and are unchanged"
        warn([f"{count}: {_ranges(meter.repaired)}"])
    seconds = meter.seconds()
    return Result(
        output=out,
        frames=meter.frames,
        retried=meter.fallen_back,
        guarded=meter.guarded,
        repaired=len(meter.repaired),
        seconds=seconds,
        fps=meter.restored / seconds,
        warnings=tuple(warnings),
    )


def _here(
    missing: list[Segment],
    video: Path,
    restorer: Restorer,
    tiling: Tiling,
    hwaccel: HWAccelChoice,
    survey: Survey,
    target: Target,
    work: WorkFolder,
    trace: Trace | None,
    meter: _Meter,
) -> Iterator[Finished]:
    """Restore segments in this process, neighbours in one go."""
    for run in stretches(missing):
        with VideoReader(video) as reader:
            reader.accelerate(hwaccel)
            yield from restore_run(
                run,
                reader,
                restorer,
                tiling,
                survey=survey,
                target=target,
                path=work.segment_path,
                trace=trace,
                on_work=meter.worked,
            )


def _elsewhere(tasks: list[Task], plan: object, restorer: Restorer, execution: Execution) -> Iterator[Finished]:
    """Restore segments in other processes."""
    if not isinstance(plan, str | Path | None):
        raise UsageError("expected a plan file for workers, got an opened plan, which cannot travel; pass its path")
    path = None if plan is None else Path(plan).absolute()
    return restore_in_processes(
        tasks,
        path,
        getattr(restorer, "plan_key", ""),
        devices=execution.devices,
        threads=execution.threads or max(1, (os.cpu_count() or 1) // len(execution.devices)),
        in_flight=execution.in_flight,
    )


def _clips(path: Path | None, reader: VideoReader, tiling: Tiling) -> int:
    """Clips of a video at least, as far as its header tells: more than that cannot run side by side."""
    info = reader.info
    work = plan_workload(
        open_plan(path or DEFAULT_PLAN).manifest,
        frames=info.frames or None,
        height=info.height,
        width=info.width,
        window_overlap=tiling.window_overlap,
        tile_overlap=tiling.tile_overlap,
    )
    return sys.maxsize if work.windows is None else work.windows * work.tiles


def default_output(video: Path) -> Path:
    """`clip.mp4` -> `clip.deblurred.mp4`; containers that cannot be written become Matroska."""
    suffix = video.suffix if video.suffix.lower() in CONTAINERS else ".mkv"
    return video.with_name(f"{video.stem}.deblurred{suffix}")


class _Meter:
    """What a job counts while it runs."""

    def __init__(self, total: int | None, on_progress: Callable[[Progress], None]) -> None:
        self.frames = 0
        self.restored = 0
        self.fallen_back = 0
        self.guarded = 0
        self.repaired = array("q")
        self._found = self._work = 0.0
        self._total = total
        self._on_progress = on_progress
        self._start = time.monotonic()

    def seconds(self) -> float:
        return max(time.monotonic() - self._start, 1e-9)

    def resume(self, total: int, found: list[Finished]) -> None:
        """Count what an earlier run finished; the clock starts with what is left."""
        self._total = total
        for line in found:
            self.finished(line)
        self._found, self.restored = self.frames, 0
        self._start = time.monotonic()

    def finished(self, line: Finished) -> None:
        count = len(line.segment.kept)
        self.frames += count
        self.restored += count
        self.fallen_back += line.fallback
        self.guarded += line.guarded
        self.repaired.extend(line.repaired)

    def worked(self, work: float) -> None:
        """Frames restored by this run so far."""
        self._work = work = max(self._found + work, self._work)
        fps = (work - self._found) / self.seconds()
        known = self._total is not None and self._total >= work and fps > 0
        self._on_progress(
            Progress(
                frames=int(work),
                work=work,
                total=self._total,
                fps=fps,
                eta_seconds=((self._total or 0) - work) / fps if known else None,
            )
        )


def _key(video: Path, restorer: Restorer, options: dict[str, Any]) -> dict[str, Any]:
    """What a job's segments depend on; a restorer without a plan is like no other."""
    plan = getattr(restorer, "plan_key", "") or f"opened {secrets.token_hex(8)}"
    return {"source": source_key(video), "plan": plan, **options, "version": metadata.version("bsst")}


def _ranges(numbers: Iterable[int], limit: int = 8) -> str:
    """0, 1, 2, 7 -> "0-2, 7"; after `limit` ranges "..."."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    shown = [f"{first}-{last}" if last > first else str(first) for first, last in found[:limit]]
    return ", ".join(shown + ["..."] * (len(found) > limit))


def _container(video: Path, out: Path, *, overwrite: bool, crf: int) -> str:
    """Check what can be checked before any work -> FFmpeg name of the output's container."""
    container = CONTAINERS.get(out.suffix.lower())
    if container is None:
        raise UsageError(
            f"expected an output name that ends in {', '.join(CONTAINERS)}, got {out.name}; choose one of these"
        )
    if not 0 <= crf <= 51:
        raise UsageError(f"expected a crf of 0 to 51, got {crf}; 16 looks like the source, larger is smaller and worse")
    if not out.parent.is_dir():
        raise OutputError(f"expected an existing folder for {out}, found none; create {out.parent} first")
    try:
        out.exists()
    except OSError as error:  # a name that the file system cannot hold, which is known after the work otherwise
        raise OutputError(f"expected to write {out}, got {error.strerror}; choose another name with -o") from error
    found = what_is_at(out)
    if found != "nothing" and what_is_at(video) != "nothing" and out.samefile(video):
        raise UsageError(f"expected an output other than the input, got {out} for both; choose another name with -o")
    if found == "a file" and not overwrite:
        raise OutputError(f"expected no file at {out}, found one; choose another name or pass --overwrite")
    if found not in ("a file", "nothing"):
        raise OutputError(f"expected a file or nothing at {out}, found {found}; choose another name with -o")
    return container


def _verify(path: Path, expected: array[int], time_base: Fraction, *, earliest: Fraction) -> None:
    """Read the finished file back: as many frames, at the same times, or all later by what began before zero.

    Raises:
        VerificationError: it differs.
    """
    times, ticks = packet_times(path)
    if len(times) != len(expected):
        raise VerificationError(
            f"expected {len(expected)} frames in the result, read back {len(times)}; the result was discarded, "
            f"please report this with the source's format"
        )
    delay = times[0] * ticks - expected[0] * time_base
    if abs(delay + min(earliest, expected[0] * time_base)) > ticks:
        delay = Fraction(0)
    tolerance = ticks if delay else ticks / 2
    for index, (found, wanted) in enumerate(zip(times, expected, strict=True)):
        if abs(found * ticks - delay - wanted * time_base) > tolerance:
            raise VerificationError(
                f"expected frame {index} at {float(wanted * time_base):.4f} s, read back {float(found * ticks):.4f} s; "
                f"the result was discarded, try an output name that ends in .mkv"
            )


def _publish(unfinished: Path, out: Path, *, overwrite: bool) -> None:
    """Make the file durable, then give it its name."""
    try:
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        if out.exists() and not overwrite:
            raise OutputError(f"expected no file at {out}, one appeared meanwhile; choose another name")
        unfinished.replace(out)
    except OSError as error:
        raise OutputError(f"expected to write {out}, could not: {error}; check free space and permissions") from error
