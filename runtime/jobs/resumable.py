"""A job from file to file: segment by segment in a hidden folder beside its output, so that it can go on there.

Nothing appears under the final name before the segments were joined, read back, and match the source in number of
frames and timestamps.
"""

from __future__ import annotations

import secrets
import shutil
from array import array
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from bsst.errors import OutOfMemoryError, OutputError, UsageError
from bsst.runtime.frames.windows import TileDone
from bsst.runtime.jobs.opened import OpenedJob, enough_memory
from bsst.runtime.jobs.output import PICTURE_FILES, Output, Writer
from bsst.runtime.jobs.part import Part
from bsst.runtime.jobs.report import Meter
from bsst.runtime.jobs.run import Task
from bsst.runtime.jobs.segment import Segment, plan_segments, segment_length, share_of
from bsst.runtime.jobs.store import joined_packets
from bsst.runtime.jobs.survey import Survey, take_survey
from bsst.runtime.jobs.where import restore_elsewhere, restore_here
from bsst.runtime.jobs.work import Finished, WorkFolder, source_key
from bsst.runtime.network.planned import Planned
from bsst.runtime.restore import Tiling
from bsst.runtime.video.cut import Cut
from bsst.runtime.video.encoder import EncoderSettings, choose_encoder
from bsst.runtime.video.pictures import are_pictures
from bsst.runtime.video.publish import publish
from bsst.runtime.video.sound import AUDIO_CHOICES
from bsst.runtime.video.sources import Reader, pictures_key
from bsst.runtime.video.writer import RefusedError, SoundRefusedError

__all__ = ["restore_resumable"]


def restore_resumable(job: OpenedJob) -> Path:
    """Restore a file, or a share of one into its work folder.

    Returns:
        The result, or the work folder where a share lies.

    Raises:
        OutputError: the output cannot be written, or another job is at work on it.
        VerificationError: the finished file has other frames.
        OutOfMemoryError: a window does not fit into memory.
        UsageError: a share of a job that writes pictures.
    """
    execution, output, meter = job.execution, job.output, job.meter
    share = execution.share
    with (
        WorkFolder(output.place, _key(job), resume=execution.resume, share=share) as work,
        _kept_or_removed(work, meter, keep=execution.keep_work or share is not None),
        enough_memory(job.restorer, job.reader),
    ):
        if share is None:
            _write_and_publish(job, work)
            return output.path
        if output.container == PICTURE_FILES:
            raise UsageError(f"expected a video file for a share of a job, got {output.path}; name one with -o")
        settings, encoder = choose_encoder(
            output.container,
            job.reader.info,
            lossless=job.output_format.lossless,
            crf=job.output_format.crf,
            hwaccel=execution.hwaccel,
        )
        _restore(job, work, settings, encoder, [], _survey_of_part(job, work))
        meter.info(f"share {share[0]} of {share[1]} is in {work.path}; the same command without it joins all")
        return work.path


@dataclass(frozen=True, kw_only=True)
class _Restored:
    """What lies in the work folder when all segments are finished."""

    survey: Survey
    kept: range
    segments: list[Segment]


def _restore(
    job: OpenedJob, work: WorkFolder, settings: EncoderSettings, encoder: str, lost: list[str], survey: Survey | None
) -> _Restored:
    """Restore what is missing of this job or share."""
    reader, restorer, meter, execution = job.reader, job.restorer, job.meter, job.execution
    if restorer.line:
        meter.info(restorer.line)
    meter.info(f"decoder {reader.decoder}, encoder {encoder}")
    meter.warn(reader.warnings + lost)
    survey = survey or _surveyed(work, reader, job.tiling)
    whole = range(len(survey.times))
    kept = whole if job.part is None else job.part.frames(survey.times, reader.info.time_base)
    meter.warn(survey.warnings)
    overlap = job.tiling.window_overlap
    segments = plan_segments(
        survey.scenes,
        len(survey.times),
        length=restorer.frames,
        overlap=restorer.window_overlap if overlap is None else overlap,
        wanted=segment_length(reader.info.height, reader.info.width),
        kept=kept,
    )
    segments = segments if execution.share is None else share_of(segments, execution.share)
    task = Task(
        video=job.video,
        folder=work.path,
        run=tuple(_missing(segments, work, meter)),
        tile=restorer.tile,
        tiling=job.tiling,
        settings=settings,
        hwaccel=execution.hwaccel,
        rate=job.rate,
    )
    lines: Generator[Finished | TileDone, None, None]
    if isinstance(restorer, Planned):
        lines = restore_elsewhere(task, job.plan, restorer, execution)
    else:
        lines = restore_here(task, restorer, survey, job.trace)
    with closing(lines):
        for line in lines:
            if isinstance(line, TileDone):
                meter.worked(line.frames)
                continue
            work.add(line)
            meter.finished(line)
    return _Restored(survey=survey, kept=kept, segments=segments)


def _write_and_publish(job: OpenedJob, work: WorkFolder) -> None:
    """Restore, join, check, and give the file its name; where its container refuses the film, another one beside it."""
    output = job.output
    unfinished = work.path / "result.tmp"  # on the output's file system, so that the rename is atomic
    time_base = job.reader.info.time_base
    try:
        place, refused = output.place, None
        attempt = _Attempt(job, work, unfinished)
        try:
            writer, restored = attempt.write(output)
        except RefusedError as error:
            if attempt.restored is None or output.container == "matroska":
                raise
            refused, place = error, output.place.with_suffix(".mkv")
            writer, restored = attempt.write(replace(output, container="matroska"))
        shown = restored.survey.times[restored.kept.start : restored.kept.stop]
        try:
            publish(
                unfinished,
                place,
                overwrite=output.overwrite,
                times=array("q", (time - writer.origin for time in shown)),
                time_base=time_base,
                earliest=writer.earliest,
                problem=refused,
            )
        finally:
            if not unfinished.exists():  # whole, under one name or another: its segments are needed no more
                work.finished.clear()
    finally:
        with suppress(OSError):  # of a read-only folder, which has been reported
            shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink(missing_ok=True)
    job.meter.warn(job.reader.warnings + writer.warnings)


class _Attempt:
    """Writes the unfinished file, as often as it takes; frames are restored once.

    Args:
        job: whose segments are joined.
        work: where they lie.
        unfinished: the file.
    """

    restored: _Restored | None = None

    def __init__(self, job: OpenedJob, work: WorkFolder, unfinished: Path) -> None:
        self._job, self._work, self._unfinished = job, work, unfinished
        self._encoder: tuple[EncoderSettings, str] | None = None
        self._surveyed = _survey_of_part(job, work)

    def write(self, output: Output) -> tuple[Writer, _Restored]:
        """Again with other sound where only the sound is in the way."""
        job = self._job
        for audio in AUDIO_CHOICES[AUDIO_CHOICES.index(job.output_format.audio) :]:
            try:
                with output.writer(
                    self._unfinished,
                    job.reader,
                    source=job.video,
                    output_format=replace(job.output_format, audio=audio),
                    hwaccel=job.execution.hwaccel,
                    cut=self._cut(),
                    encoder=self._encoder,
                ) as writer:
                    self._encoder = writer.settings, writer.encoder
                    restored = self.restored or _restore(
                        job, self._work, *self._encoder, writer.warnings, self._surveyed
                    )
                    self.restored = restored
                    paths = [self._work.segment_path(segment) for segment in restored.segments]
                    for packet in joined_packets(paths, restored.segments, restored.survey, job.reader.info):
                        writer.write_packet(packet)
                return writer, restored
            except SoundRefusedError as error:
                now = "converted" if audio == "copy" else "left out"
                job.meter.warn([f"the sound is {now}, {output.container} cannot hold it so: {error.reason}"])
        raise AssertionError("a file without sound was refused for its sound")

    def _cut(self) -> Cut | None:
        if self._job.part is None or self._surveyed is None:
            return None
        return self._job.part.cut(self._surveyed.times, self._job.reader.info.time_base)


def _key(job: OpenedJob) -> dict[str, Any]:
    """What a job's segments depend on; a restorer without a plan is like no other."""
    written = {"lossless": job.output_format.lossless, "crf": job.output_format.crf}
    options = {**written, "hwaccel": job.execution.hwaccel, **asdict(job.tiling)}
    tile = options.pop("tile")
    options |= {"tile": "x".join(map(str, tile))} if tile is not None else {}
    options |= {"part": str(job.part)} if job.part is not None else {}
    options |= {"rate": str(job.rate)} if job.rate is not None else {}
    plan = getattr(job.restorer, "plan_key", "") or f"opened {secrets.token_hex(8)}"
    source = pictures_key(job.video) if are_pictures(job.video) else source_key(job.video)
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


def _survey_of_part(job: OpenedJob, work: WorkFolder) -> Survey | None:
    """Where there is a part: where sound is cut must be known before the header is written."""
    if job.part is None:
        return None
    return _surveyed(work, job.reader, job.tiling, job.part, further=job.restorer.frames)


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
