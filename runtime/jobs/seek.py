"""Some frames of a video without decoding all that come before: from a key frame, if that gives the very same frames.

The survey knows the time and a digest of every frame. What a seek leads to counts only if it matches both, frame by
frame, since indexes of containers are wrong at times, open groups of pictures begin with frames whose references are
missing, and gradual refreshes take frames to become whole. Otherwise everything is decoded, as without a seek.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice

import av.error

from bsst.errors import InputError
from bsst.runtime.jobs.survey import Survey
from bsst.runtime.video.decoded import Frame
from bsst.runtime.video.sources import Reader

__all__ = ["frames_between"]

EARLIER = (16, 256)
"""Frames before the first one that is wanted, from where a key frame is looked for: more than reordering moves frames,
and then more than most gradual refreshes take."""


def frames_between(reader: Reader, survey: Survey, first: int, last: int) -> Iterator[Frame]:
    """Frames `first` to `last` - 1 of a video, equal to those of a reader that is iterated from the start.

    Args:
        reader: not iterated yet; its frames are used up.
        survey: of the same video.
        first: first frame.
        last: end of the frames.

    Raises:
        InputError: the video cannot be decoded.
    """
    done, sought = first, False
    for earlier in EARLIER:
        if done > first or first <= earlier or not survey.digests:
            break
        sought = True
        for frame in _from_key_frame(reader, survey, survey.times[first - earlier], first, last):
            yield frame
            done += 1
    if done < last:
        if sought:
            reader.restart()
        yield from islice(reader, done, last)


def _from_key_frame(reader: Reader, survey: Survey, time: int, first: int, last: int) -> Iterator[Frame]:
    """The frames that are wanted, up to the first that does not match."""
    try:
        for frame in reader.seek(time):
            index = bisect_left(survey.times, frame.pts)
            if index < first:
                continue
            if index != first or survey.times[index] != frame.pts or survey.digests[index] != frame.digest:
                return
            yield frame
            first += 1
            if first == last:
                return
    except (av.error.FFmpegError, InputError):
        return
