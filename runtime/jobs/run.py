"""Restore neighbouring segments in one go, and put each into the work folder as soon as it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from bsst.runtime.frames.frame import SourceFrame, TileDone
from bsst.runtime.frames.restorer import Restorer
from bsst.runtime.jobs.segment import Segment
from bsst.runtime.jobs.store import SegmentWriter
from bsst.runtime.jobs.survey import Survey
from bsst.runtime.jobs.work import Finished
from bsst.runtime.restore import Tiling, restored_windows
from bsst.runtime.trace import Trace, span
from bsst.runtime.video.encoder import Target
from bsst.runtime.video.reader import VideoReader

__all__ = ["restore_run"]


def restore_run(
    run: Sequence[Segment],
    reader: VideoReader,
    restorer: Restorer,
    tiling: Tiling,
    *,
    survey: Survey,
    target: Target,
    path: Callable[[Segment], Path],
    trace: Trace | None = None,
    on_work: Callable[[float], None] = lambda frames: None,
) -> Iterator[Finished]:
    """Restore a run of segments, each of which begins where the one before ends.

    Args:
        run: see `stretches`.
        reader: of the source, from its first frame on.
        restorer: an opened plan.
        tiling: how the video is cut up; scenes are those of the survey.
        survey: of the source.
        target: how frames are encoded.
        path: final name of a segment's file.
        trace: records what happens when.
        on_work: called after each tile with the frames of the run restored so far.

    Yields:
        A line for the journal for each segment, when its file is in place.
    """
    first, last, starts = run[0].first, run[-1].last, set(survey.scenes)

    def sources() -> Iterator[SourceFrame]:
        frames = iter(reader)
        for index in range(last):
            with span(trace, "decode", "frame"):
                frame = next(frames, None)
            if frame is None:
                return
            if index >= first:
                yield SourceFrame(frame.rgb, time=index, cut=index in starts)

    pending = iter(run)
    segment = next(pending)
    fallback, guarded, repaired = 0, 0, list[int]()
    with closing(restored_windows(sources(), restorer, replace(tiling, scene_cuts=False))) as results, ExitStack() as s:
        writer = s.enter_context(SegmentWriter(path(segment), segment, survey, reader.info, target))
        for result in results:
            if isinstance(result, TileDone):
                on_work(max(0.0, result.frames - (run[0].keep_from - first)))
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
                    s.close()
                    line = Finished(
                        segment=segment,
                        sha256=writer.sha256,
                        size=writer.size,
                        fallback=fallback,
                        guarded=guarded,
                        repaired=tuple(repaired),
                        device=restorer.line,
                    )
                    yield line
                    following = next(pending, None)
                    if following is None:
                        return
                    segment, fallback, guarded, repaired = following, 0, 0, []
                    writer = s.enter_context(SegmentWriter(path(segment), segment, survey, reader.info, target))
            del result  # before the next one is awaited
