"""One video file to one deblurred video file.

Nothing appears under the final name before the result was read back and matches the source in number of frames and
timestamps: the result is written to a hidden file in the same folder, checked, synced and renamed. On any error and on
Ctrl-C the hidden file is removed.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from bsst.errors import OutOfMemoryError, OutputError, UsageError, VerificationError
from bsst.files import what_is_at
from bsst.plan.archive import open_plan
from bsst.runtime.estimate import plan_workload
from bsst.runtime.frames.frame import SourceFrame, TileDone
from bsst.runtime.frames.restorer import Restorer
from bsst.runtime.network.network import DEFAULT_PLAN, load_network
from bsst.runtime.restore import Tiling, restored_windows
from bsst.runtime.trace import Trace, span
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
    hwaccel: HWAccelChoice = "auto"
    """Decode and encode on an NVIDIA GPU; "auto" does for plans that run on one, where its codecs work."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished job."""

    output: Path
    frames: int
    retried: int
    """Frames of windows whose result was not finite and that were restored again in float32."""
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
    lossless: bool = False,
    crf: int = 16,
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
        # In the same folder, so that the rename is atomic; hidden and without a video suffix, so that nothing plays it.
        unfinished = out.with_name(f".bsst-{os.getpid()}-{secrets.token_hex(4)}.tmp")
        meter = _Meter(reader.info.frames or None, observer.progress)

        def sources() -> Iterator[SourceFrame]:
            frames = iter(reader)
            while True:
                with span(trace, "decode", "frame"):
                    frame = next(frames, None)
                if frame is None:
                    return
                yield SourceFrame(frame.rgb, time=(frame.pts, frame.duration))

        try:
            with VideoWriter(
                unfinished, container, reader.info, source=video, lossless=lossless, crf=crf, hwaccel=hwaccel
            ) as writer:
                if restorer.line:
                    observer.info(restorer.line)
                observer.info(f"decoder {reader.decoder}, encoder {writer.encoder}")
                warn(reader.warnings + writer.warnings)
                with closing(restored_windows(sources(), restorer, tiling)) as results:  # its threads use the reader
                    for result in results:
                        if isinstance(result, TileDone):
                            meter.worked(result.frames)
                            continue
                        meter.repaired.extend(result.repaired)
                        if result.fallback:
                            if not meter.fallen_back:
                                frames = _ranges(range(result.first, result.first + len(result.frames)))
                                again = "restored again in float32, as it was not finite; so is every other like it"
                                warn([f"window of frames {frames} {again}"])
                            meter.fallen_back += len(result.frames)
                        for pixels, (pts, duration) in zip(result.frames, result.times, strict=True):
                            with span(trace, "encode", "frame"):
                                writer.write(pixels, pts=pts, duration=duration)
                            meter.wrote(pts)
                        del result  # before the next one is awaited
            _verify(unfinished, meter.times, reader.info.time_base, earliest=writer.earliest)
            _publish(unfinished, out, overwrite=overwrite)
        except MemoryError as error:
            raise OutOfMemoryError(
                f"expected memory for {restorer.frames} frames of {reader.info.width}x{reader.info.height}, ran out; "
                f"use a plan with fewer frames or scale the video down"
            ) from error
        finally:
            with suppress(OSError):  # of a read-only folder, which has been reported
                unfinished.unlink(missing_ok=True)
    warn(reader.warnings + writer.warnings)
    if meter.repaired:
        count = f"{len(meter.repaired)} of {len(meter.times)} frames could not be restored and are unchanged"
        warn([f"{count}: {_ranges(meter.repaired)}"])
    seconds = meter.seconds()
    return Result(
        output=out,
        frames=len(meter.times),
        retried=meter.fallen_back,
        repaired=len(meter.repaired),
        seconds=seconds,
        fps=len(meter.times) / seconds,
        warnings=tuple(warnings),
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
        self.times = array("q")
        self.fallen_back = 0
        self.repaired = array("q")
        self._work = 0.0
        self._total = total
        self._on_progress = on_progress
        self._start = time.monotonic()

    def seconds(self) -> float:
        return max(time.monotonic() - self._start, 1e-9)

    def wrote(self, pts: int) -> None:
        self.times.append(pts)
        self.worked(len(self.times))

    def worked(self, work: float) -> None:
        self._work = work = max(work, self._work)  # a window is restored before its frames are written
        fps = work / self.seconds()
        known = self._total is not None and self._total >= work and fps > 0
        self._on_progress(
            Progress(
                frames=len(self.times),
                work=work,
                total=self._total,
                fps=fps,
                eta_seconds=((self._total or 0) - work) / fps if known else None,
            )
        )


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
