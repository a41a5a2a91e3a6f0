"""One video file to one deblurred video file.

A job works in a hidden folder beside its output, segment by segment (`bsst.runtime.jobs`). The same job started again,
after an error, Ctrl-C, a kill or a power cut, goes on there. Nothing appears under the final name before the segments
were joined, read back, and match the source in number of frames and timestamps.
"""

from __future__ import annotations

import secrets
import shutil
from array import array
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, replace
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any

from bsst.errors import OutOfMemoryError, OutputError, UsageError
from bsst.runtime.frames.restorer import Restorer
from bsst.runtime.jobs.cluster_ray import restore_on_cluster
from bsst.runtime.jobs.opened import OpenedPlan, memory_warnings, open_restorer
from bsst.runtime.jobs.options import Execution, OutputFormat
from bsst.runtime.jobs.output import PICTURE_FILES, Output, Writer, default_output, default_preview, output_of
from bsst.runtime.jobs.part import Part, Preview
from bsst.runtime.jobs.piped import restore_piped
from bsst.runtime.jobs.preview import restore_preview
from bsst.runtime.jobs.processes import restore_in_processes
from bsst.runtime.jobs.report import Meter, Observer, Result
from bsst.runtime.jobs.run import Task, restore_run
from bsst.runtime.jobs.segment import Segment, plan_segments, segment_length, share_of, stretches
from bsst.runtime.jobs.store import joined_packets
from bsst.runtime.jobs.survey import Survey, take_survey
from bsst.runtime.jobs.work import Finished, WorkFolder, remove_leftovers, require_free, source_key
from bsst.runtime.network.planned import Planned
from bsst.runtime.restore import Tiling
from bsst.runtime.trace import Trace
from bsst.runtime.video.encoder import Target, choose_encoder
from bsst.runtime.video.pictures import are_pictures
from bsst.runtime.video.pipes import PIPE
from bsst.runtime.video.publish import publish
from bsst.runtime.video.sound import AUDIO_CHOICES
from bsst.runtime.video.sources import Reader, open_reader, pictures_key
from bsst.runtime.video.writer import RefusedError, SoundRefusedError
from bsst.system import usable_cores

__all__ = ["deblur"]


def deblur(
    video: str | Path,
    out: str | Path | None = None,
    plan: str | Path | Restorer | OpenedPlan | None = None,
    *,
    overwrite: bool = False,
    part: Part | Preview | None = None,
    rate: Fraction | None = None,
    output_format: OutputFormat | None = None,
    tiling: Tiling | None = None,
    execution: Execution | None = None,
    observer: Observer | None = None,
) -> Result:
    """Deblur a video file, pictures, or a pipe.

    Args:
        video: file to read; folder of pictures, or pattern such as `%06d.png`; "-" for standard input.
        out: file to write, ending in .mp4, .m4v, .mov, .mkv or .webm; folder or pattern of pictures; "-" for standard
            output. `<stem>.deblurred<suffix>` beside the video by default, in Matroska when the source's container
            cannot be written.
        plan: plan file, or an opened plan, which stays open: a network, or an `OpenedPlan` for videos of any size; the
            packaged plan by default.
        overwrite: replace an existing output.
        part: what of the video is restored, with its sound; it starts at zero in the result. All by default. Of a
            `Preview`, source and result side by side, to `<stem>.preview<suffix>` by default.
        rate: pictures a second, where pictures are read; 25 by default.
        output_format: how the result is written.
        tiling: how the video is cut up; as the plan recommends by default.
        execution: who does the work, and whether it goes on where the same job was interrupted.
        observer: told how it goes.

    Raises:
        UsageError: options that do not fit together.
        InputError: the video cannot be read.
        OutputError: the result exists already or cannot be written.
        ModelError: the plan cannot be used.
        VerificationError: the finished file does not match the source.
        OutOfMemoryError: the window does not fit into memory.
    """
    if "" in (video, out):  # would be the present folder
        raise UsageError("expected the name of a video and of its result, got an empty one; give both, or leave out")
    video, observer = Path(video), observer or Observer()
    output_format, tiling = output_format or OutputFormat(), tiling or Tiling()
    execution = execution or Execution()
    if out is None and video == PIPE:
        raise UsageError("expected an output beside a video from a pipe; name a file with -o, or -o - for a pipe")
    preview, part = (part, None) if isinstance(part, Preview) else (None, part)
    if out is None:
        out = default_output(video) if preview is None else default_preview(video)
    out, share = Path(out), execution.share
    if preview is not None and (PIPE in (video, out) or share is not None):
        raise UsageError("expected a preview of a file alone, got a pipe or a share as well; leave that out")
    if out == PIPE:
        output = Output(path=out, container="", overwrite=False)
    else:
        output = output_of(video, out, overwrite=overwrite, crf=output_format.crf)
        remove_leftovers(output.place)
        if share is None:
            require_free(output.place)
    if output_format.audio not in AUDIO_CHOICES:
        raise UsageError(f"expected audio to be one of {', '.join(AUDIO_CHOICES)}, got {output_format.audio}")
    if share is not None and not (1 <= share[0] <= share[1] and execution.resume):
        raise UsageError(f"expected share k of n with k from 1 to n, and resuming, got {share}, {execution.resume=}")
    with open_reader(video, rate=rate) as reader, ExitStack() as stack:
        meter = Meter(reader.info.frames or None, observer)
        restorer = open_restorer(plan, reader, tiling, execution, observer.trace, stack)
        meter.warn(memory_warnings(restorer, reader, tiling))
        hwaccel = "none" if execution.hwaccel == "auto" and not restorer.on_gpu else execution.hwaccel
        reader.accelerate(hwaccel)
        if preview is not None:
            if isinstance(restorer, Planned) or output.container == PICTURE_FILES:
                raise UsageError("expected one process and a video file for a preview, got workers or pictures; "
                                 "leave --devices, --workers and --ray out, and name a file with -o")  # fmt: skip
            with _enough_memory(restorer, reader):
                restore_preview(
                    video,
                    output,
                    restorer,
                    tiling,
                    meter,
                    seconds=Fraction(preview.seconds),
                    rate=rate,
                    output_format=output_format,
                    hwaccel=hwaccel,
                    trace=observer.trace,
                )
            return meter.result(out)
        if PIPE in (video, out):
            if isinstance(restorer, Planned) or share is not None:
                raise UsageError("expected one process for a pipe, got workers or a share; save it as a file first")
            with _enough_memory(restorer, reader):
                restore_piped(
                    video,
                    reader,
                    output,
                    restorer,
                    tiling,
                    meter,
                    again=lambda: open_reader(video, rate=rate),
                    output_format=output_format,
                    hwaccel=hwaccel,
                    part=part,
                    trace=observer.trace,
                )
            return meter.result(out)
        options = {"lossless": output_format.lossless, "crf": output_format.crf, "hwaccel": hwaccel, **asdict(tiling)}
        tile = options.pop("tile")
        options |= {"tile": "x".join(map(str, tile))} if tile is not None else {}
        options |= {"part": str(part)} if part is not None else {}
        options |= {"rate": str(rate)} if rate is not None else {}
        key = _key(video, restorer, options)
        work = stack.enter_context(WorkFolder(output.place, key, resume=execution.resume, share=share))
        unfinished = work.path / "result.tmp"  # on the output's file system, so that the rename is atomic
        surveyed, cut = None, None

        def restore(target: Target, encoder: str, lost: list[str]) -> tuple[Survey, range, list[Segment]]:
            """Restore what is missing -> the survey, the frames to keep, and the segments of this job or share."""
            if restorer.line:
                meter.info(restorer.line)
            meter.info(f"decoder {reader.decoder}, encoder {encoder}")
            meter.warn(reader.warnings + lost)
            survey = surveyed or _surveyed(work, reader, tiling)
            kept = range(len(survey.times)) if part is None else part.frames(survey.times, reader.info.time_base)
            meter.warn(survey.warnings)
            segments = plan_segments(
                survey.scenes,
                len(survey.times),
                length=restorer.frames,
                overlap=restorer.window_overlap if tiling.window_overlap is None else tiling.window_overlap,
                wanted=segment_length(reader.info.height, reader.info.width),
                kept=kept,
            )
            segments = segments if share is None else share_of(segments, share)
            missing = _missing(segments, work, meter)
            task = Task(
                video=video,
                folder=work.path,
                run=tuple(missing),
                tile=restorer.tile,
                tiling=tiling,
                target=target,
                hwaccel=hwaccel,
                rate=rate,
            )
            if isinstance(restorer, Planned):
                lines = _elsewhere(task, plan, restorer, execution)
            else:
                lines = _here(task, restorer, survey, observer.trace, meter)
            with closing(lines):
                for line in lines:
                    work.add(line)
                    meter.finished(line)
            return survey, kept, segments

        done: tuple[Survey, range, list[Segment]] | None = None
        chosen: tuple[Target, str] | None = None

        def write(output: Output) -> tuple[Writer, Survey, range]:
            """Restore, and write the unfinished file; again with other sound where only the sound is in the way."""
            nonlocal done, chosen
            for audio in AUDIO_CHOICES[AUDIO_CHOICES.index(output_format.audio) :]:
                written = replace(output_format, audio=audio)
                try:
                    with output.writer(
                        unfinished,
                        reader,
                        source=video,
                        output_format=written,
                        hwaccel=hwaccel,
                        cut=cut,
                        encoder=chosen,
                    ) as writer:
                        chosen = writer.target, writer.encoder
                        survey, kept, segments = done = done or restore(writer.target, writer.encoder, writer.warnings)
                        paths = [work.segment_path(segment) for segment in segments]
                        for packet in joined_packets(paths, segments, survey, reader.info):
                            writer.write_packet(packet)
                    return writer, survey, kept
                except SoundRefusedError as error:
                    now = "converted" if audio == "copy" else "left out"
                    meter.warn([f"the sound is {now}, {output.container} cannot hold it so: {error.reason}"])
            raise AssertionError("a file without sound was refused for its sound")

        with (
            _kept_or_removed(work, meter, keep=execution.keep_work or share is not None),
            _enough_memory(restorer, reader),
        ):
            if part is not None:  # where sound is cut must be known before the header is written
                surveyed = _surveyed(work, reader, tiling, part, further=restorer.frames)
                cut = part.cut(surveyed.times, reader.info.time_base)
            if share is not None:
                if output.container == PICTURE_FILES:
                    raise UsageError(f"expected a video file for a share of a job, got {out}; name one with -o")
                target, encoder = choose_encoder(
                    output.container,
                    reader.info,
                    lossless=output_format.lossless,
                    crf=output_format.crf,
                    hwaccel=hwaccel,
                )
                restore(target, encoder, [])
                meter.info(f"share {share[0]} of {share[1]} is in {work.path}; the same command without it joins all")
                return meter.result(work.path)
            try:
                place, refused = output.place, None
                try:
                    writer, survey, kept = write(output)
                except RefusedError as error:
                    if done is None or output.container == "matroska":
                        raise
                    refused, place = error, output.place.with_suffix(".mkv")
                    writer, survey, kept = write(replace(output, container="matroska"))
                times = array("q", (time - writer.origin for time in survey.times[kept.start : kept.stop]))
                try:
                    publish(
                        unfinished,
                        place,
                        overwrite=output.overwrite,
                        times=times,
                        time_base=reader.info.time_base,
                        earliest=writer.earliest,
                        problem=refused,
                    )
                finally:
                    if not unfinished.exists():  # whole, under one name or another: its segments are needed no more
                        work.finished.clear()
            finally:
                with suppress(OSError):  # of a read-only folder, which has been reported
                    shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink(missing_ok=True)
    meter.warn(reader.warnings + writer.warnings)
    return meter.result(out)


def _key(video: Path, restorer: Restorer | Planned, options: dict[str, Any]) -> dict[str, Any]:
    """What a job's segments depend on; a restorer without a plan is like no other."""
    plan = getattr(restorer, "plan_key", "") or f"opened {secrets.token_hex(8)}"
    source = pictures_key(video) if are_pictures(video) else source_key(video)
    return {"source": source, "plan": plan, **options, "version": metadata.version("bsst")}


@contextmanager
def _kept_or_removed(work: WorkFolder, meter: Meter, *, keep: bool) -> Iterator[None]:
    """Leave the work folder where the same job could go on there, or where told to; otherwise remove it."""
    resumable = True
    try:
        yield
        resumable = False
    except (KeyboardInterrupt, OutputError, OutOfMemoryError) as error:
        if work.finished:
            again = "" if isinstance(error, RefusedError) else ", run the same command to go on"  # not to end so again
            kept = f"{meter.frames} frames are kept in {work.path}{again}"
            error.args = (f"{str(error) or 'interrupted'}; {kept}",)
        raise
    finally:
        if not keep and not (resumable and work.finished):
            work.remove()


@contextmanager
def _enough_memory(restorer: Restorer | Planned, reader: Reader) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise OutOfMemoryError(
            f"expected memory for {restorer.frames} frames of {reader.info.height}x{reader.info.width} (height x "
            f"width), ran out; use a plan with fewer frames or scale the video down"
        ) from error


def _surveyed(
    work: WorkFolder, reader: Reader, tiling: Tiling, part: Part | None = None, *, further: int = 0
) -> Survey:
    """Times and scenes of the video, as far as the part needs them: read now, or when the job began."""
    survey = work.survey()
    if survey is None:
        frames = reader if part is None else part.read(reader, reader.info.time_base, further=further)
        survey = take_survey(frames, scene_cuts=tiling.scene_cuts, scan=reader.scan)
        survey = replace(survey, warnings=tuple(reader.warnings))
        work.keep_survey(survey)
    return survey


def _missing(segments: list[Segment], work: WorkFolder, meter: Meter) -> list[Segment]:
    """Segments that no earlier run finished."""
    found = [work.finished[segment] for segment in segments if segment in work.finished]
    meter.resume(sum(len(segment.kept) for segment in segments), found)
    if found:
        shares = f"{len(found)} of {len(segments)} segments are there, {meter.frames} frames"
        meter.info(f"goes on with an unfinished job: {shares}")
    return [segment for segment in segments if segment not in work.finished]


def _here(
    task: Task, restorer: Restorer, survey: Survey, trace: Trace | None, meter: Meter
) -> Generator[Finished, None, None]:
    """Restore segments in this process, neighbours in one go."""
    before = 0  # frames of the runs that are done
    for run in stretches(task.run):
        part = replace(task, run=tuple(run))

        def on_work(frames: float, before: int = before) -> None:
            meter.worked(before + frames)

        yield from restore_run(part, restorer, survey, trace=trace, on_work=on_work)
        before += sum(len(segment.kept) for segment in run)


def _elsewhere(task: Task, plan: object, planned: Planned, execution: Execution) -> Generator[Finished, None, None]:
    """Restore segments in other processes, each for itself."""
    place = replace(task, video=task.video.absolute(), folder=task.folder.absolute())
    tasks = [replace(place, run=(segment,)) for segment in task.run]
    path = Path(plan).absolute() if isinstance(plan, str | Path) else None
    if execution.ray:
        return restore_on_cluster(
            tasks,
            path,
            planned.plan_key,
            address=execution.ray,
            on_gpu=planned.on_gpu,
            threads=execution.threads,
            in_flight=execution.in_flight,
        )
    return restore_in_processes(
        tasks,
        path,
        planned.plan_key,
        devices=execution.devices,
        threads=execution.threads or max(1, usable_cores() // len(execution.devices)),
        in_flight=execution.in_flight,
    )
