"""A job with a pipe at either end: nothing can be resumed, and frames leave as soon as they are restored."""

from __future__ import annotations

from array import array
from contextlib import ExitStack

from bsst.errors import InputError, UsageError
from bsst.runtime.jobs.opened import OpenedJob
from bsst.runtime.jobs.output import Writer, folder_beside
from bsst.runtime.jobs.seek import frames_between
from bsst.runtime.jobs.segment import plan_segments, segment_length
from bsst.runtime.jobs.stream import restore_stream
from bsst.runtime.jobs.survey import take_survey
from bsst.runtime.video.pipes import PIPE, PipeReader, PipeWriter, standard_output
from bsst.runtime.video.publish import publish
from bsst.runtime.video.sources import open_reader

__all__ = ["restore_piped"]

ONE_PROCESS = "expected one process for a pipe, got workers or a share; save it as a file first"


def restore_piped(job: OpenedJob) -> None:
    """Restore from a pipe, to one, or both.

    Raises:
        UsageError: a part of a pipe, or more than one process.
        OutputError: the output cannot be written.
        VerificationError: the finished file has other frames.
    """
    restorer = job.restorer_here(ONE_PROCESS)
    if job.execution.share is not None:
        raise UsageError(ONE_PROCESS)
    reader, output, tiling, meter, hwaccel = job.reader, job.output, job.tiling, job.meter, job.execution.hwaccel
    part, survey, segments, cut = job.part, None, None, None
    with ExitStack() as stack:
        if part is not None:
            if isinstance(reader, PipeReader):
                raise UsageError("expected a file for --start, --end and --duration, got a pipe; cut it before: "
                                 "ffmpeg -ss START -t DURATION -i VIDEO -f nut - | bsst run -")  # fmt: skip
            info = reader.info
            survey = take_survey(part.read(reader, info.time_base, further=restorer.frames),
                                 scene_cuts=tiling.scene_cuts, scan=reader.scan)  # fmt: skip
            segments = plan_segments(
                survey.scenes,
                len(survey.times),
                length=restorer.frames,
                overlap=restorer.window_overlap if tiling.window_overlap is None else tiling.window_overlap,
                wanted=segment_length(info.height, info.width),
                kept=part.frames(survey.times, info.time_base),
            )
            cut = part.cut(survey.times, info.time_base)
            reader = open_reader(job.video, rate=job.rate)
            stack.push(reader)
            reader.accelerate(hwaccel)
        origin = 0 if cut is None else round(cut.start / reader.info.time_base)

        def run(sink: PipeWriter | Writer) -> array[int]:
            if restorer.line:
                meter.info(restorer.line)
            meter.info(f"decoder {reader.decoder}, encoder {sink.encoder}")
            meter.warn(reader.warnings + sink.warnings)
            frames = iter(reader)
            if survey is not None and segments:
                frames = frames_between(reader, survey, segments[0].first, segments[-1].last)
            return restore_stream(
                frames, restorer, tiling, sink, meter, survey=survey, segments=segments, trace=job.trace
            )

        if output.path == PIPE:
            name = job.output_format.pipe_format or (reader.format if isinstance(reader, PipeReader) else "nut")
            file = stack.enter_context(standard_output())
            with PipeWriter(file, name, reader.info, origin=origin) as writer:
                run(writer)
            meter.warn(reader.warnings + writer.warnings)
            return
        folder = stack.enter_context(folder_beside(output.place))
        with output.writer(folder / "result.tmp", reader, source=job.video, output_format=job.output_format,
                           hwaccel=hwaccel, cut=cut) as written:  # fmt: skip
            times = run(written)
        expected = array("q", (time - origin for time in times))
        if not expected:
            raise InputError(f"expected frames from {reader.path}, got none; is it complete?")
        publish(folder / "result.tmp", output.place, overwrite=output.overwrite, times=expected,
                time_base=reader.info.time_base, earliest=written.earliest)  # fmt: skip
        meter.warn(reader.warnings + written.warnings)
