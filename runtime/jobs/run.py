"""Restore neighbouring segments in one go, and put each into the work folder as soon as it is whole."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from bsst.runtime.frames.restorer import Restorer
from bsst.runtime.frames.windows import SourceFrame, TileDone
from bsst.runtime.jobs.seek import frames_between
from bsst.runtime.jobs.segment import Segment
from bsst.runtime.jobs.store import SegmentWriter
from bsst.runtime.jobs.survey import Survey
from bsst.runtime.jobs.work import Finished, segment_path
from bsst.runtime.restore import Tiling, restored_windows
from bsst.runtime.trace import Trace, span
from bsst.runtime.video.encoder import EncoderSettings
from bsst.runtime.video.reader import HWAccelChoice
from bsst.runtime.video.sources import Reader, open_reader
from bsst.system import processor_name

__all__ = ["Task", "restore_run"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A run of segments of a job, each of which begins where the one before ends."""

    video: Path
    folder: Path
    """The job's work folder, which holds the survey and gets the segments."""
    run: tuple[Segment, ...]
    """See `stretches`."""
    tile: tuple[int, int]
    """Shape of the plan's tiles that the job's driver chose."""
    tiling: Tiling
    """How the video is cut up; scenes are those of the survey."""
    settings: EncoderSettings
    """How frames are encoded."""
    hwaccel: HWAccelChoice
    rate: Fraction | None = None
    """Pictures a second, see `open_reader`."""


def restore_run(
    task: Task,
    restorer: Restorer,
    survey: Survey,
    *,
    trace: Trace | None = None,
) -> Generator[Finished | TileDone, None, None]:
    """Restore a run of segments, and put each into the work folder as soon as it is whole.

    Args:
        task: what to restore.
        restorer: an opened plan.
        survey: of the source.
        trace: records what happens when.

    Yields:
        A line for the journal for each segment, when its file is in place; after each tile, the frames of the run
        restored so far, without those for context.
    """
    run = task.run
    first, last, starts = run[0].first, run[-1].last, set(survey.scenes)
    kept = range(run[0].keep_from, run[-1].keep_to)

    def sources(reader: Reader) -> Iterator[SourceFrame]:
        frames = frames_between(reader, survey, first, last)
        for index in range(first, last):
            with span(trace, "decode", "frame"):
                frame = next(frames, None)
                rgb = None if frame is None else frame.rgb
            if rgb is None:
                return
            yield SourceFrame(rgb, time=index, cut=index in starts)

    device = restorer.line if restorer.on_gpu else f"{restorer.line}, {processor_name()}"
    pending = iter(run)
    segment = next(pending)
    fallback, guarded, repaired = 0, 0, list[int]()
    tiling = replace(task.tiling, scene_cuts=False)
    with (
        open_reader(task.video, rate=task.rate, scan=survey.scan) as reader,
        closing(restored_windows(sources(reader), restorer, tiling)) as results,
        ExitStack() as opened,
    ):
        reader.accelerate(task.hwaccel)

        def writer_of(segment: Segment) -> SegmentWriter:
            path = segment_path(task.folder, segment)
            return opened.enter_context(SegmentWriter(path, segment, survey, reader.info, task.settings))

        writer = writer_of(segment)
        for result in results:
            if isinstance(result, TileDone):
                yield TileDone(min(max(0.0, first + result.frames - kept.start), len(kept)))
                continue
            wrong = {first + index for index in result.repaired}
            taken_back = {first + index for index in result.guarded}
            for index, pixels in zip(result.times, result.frames, strict=True):
                if index not in segment.kept:  # shared with a neighbour that is finished
                    continue
                fallback += result.fallback
                guarded += index in taken_back
                repaired += [index] * (index in wrong)
                with span(trace, "encode", "frame"):
                    writer.write(pixels)
                if index == segment.keep_to - 1:
                    opened.close()
                    line = Finished(
                        segment=segment,
                        sha256=writer.sha256,
                        size=writer.size,
                        fallback=fallback,
                        guarded=guarded,
                        repaired=tuple(repaired),
                        device=device,
                    )
                    yield line
                    following = next(pending, None)
                    if following is None:
                        return
                    segment, fallback, guarded, repaired = following, 0, 0, []
                    writer = writer_of(segment)
            del result, pixels  # before the next one is awaited
