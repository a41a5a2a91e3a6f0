"""One video file to one deblurred video file.

A job works in a hidden folder beside its output, segment by segment (`bsst.runtime.jobs`). The same job started again,
after an error, Ctrl-C, a kill or a power cut, goes on there. Nothing appears under the final name before the segments
were joined, read back, and match the source in number of frames and timestamps.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from bsst.errors import UsageError
from bsst.runtime.frames.restorer import Restorer
from bsst.runtime.jobs.opened import OpenedJob, OpenedPlan, enough_memory, memory_warnings, open_restorer
from bsst.runtime.jobs.options import Execution, OutputFormat
from bsst.runtime.jobs.output import Output, default_output, default_preview, output_of
from bsst.runtime.jobs.part import Part, Preview
from bsst.runtime.jobs.piped import restore_piped
from bsst.runtime.jobs.preview import restore_preview
from bsst.runtime.jobs.report import Meter, Observer, Result
from bsst.runtime.jobs.resumable import restore_resumable
from bsst.runtime.jobs.work import remove_leftovers, require_free
from bsst.runtime.restore import Tiling
from bsst.runtime.video.pipes import PIPE
from bsst.runtime.video.sound import AUDIO_CHOICES
from bsst.runtime.video.sources import open_reader

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
        if preview is None:
            reader.require_one_size(part.over if part else None)
        meter = Meter(reader.info.frames or None, observer)
        restorer = open_restorer(plan, reader, tiling, execution, observer.trace, stack)
        meter.warn(memory_warnings(restorer, reader, tiling, execution))
        if execution.hwaccel == "auto" and not restorer.on_gpu:
            execution = replace(execution, hwaccel="none")
        reader.accelerate(execution.hwaccel)
        job = OpenedJob(
            video=video,
            reader=reader,
            output=output,
            plan=plan,
            restorer=restorer,
            tiling=tiling,
            output_format=output_format,
            execution=execution,
            meter=meter,
            part=part,
            rate=rate,
            trace=observer.trace,
        )
        stack.enter_context(enough_memory(restorer, reader))
        if preview is not None:
            restore_preview(job, Fraction(preview.seconds))
        elif PIPE in (video, out):
            restore_piped(job)
        else:
            out = restore_resumable(job)
    return meter.result(out)
