"""One decoding pass over a video: the time of every frame and where scenes begin."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bsst.errors import InputError
from bsst.runtime.frames.frame import SourceFrame
from bsst.runtime.frames.scenes import mark_cuts
from bsst.runtime.video.reader import Frame

__all__ = ["Survey", "take_survey"]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a job knows about its video before it restores anything."""

    times: array[int]
    """Presentation time of each frame in ticks, ascending."""
    durations: array[int]
    """Ticks; 0 where unknown."""
    scenes: tuple[int, ...]
    """First frame of each scene, ascending, the first of them 0."""
    warnings: tuple[str, ...] = ()
    """What the reader said about the video by its end."""

    def to_json(self) -> dict[str, Any]:
        """For the work folder."""
        return {
            "times": list(self.times),
            "durations": list(self.durations),
            "scenes": self.scenes,
            "warnings": self.warnings,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Survey:
        """What `to_json` made.

        Raises:
            KeyError, TypeError: something else.
        """
        return cls(
            times=array("q", values["times"]),
            durations=array("q", values["durations"]),
            scenes=tuple(values["scenes"]),
            warnings=tuple(values["warnings"]),
        )


def take_survey(frames: Iterable[Frame], *, scene_cuts: bool) -> Survey:
    """Read a video once.

    Args:
        frames: of the whole video.
        scene_cuts: whether to look for scenes at all.

    Raises:
        InputError: there are no frames.
    """
    times, durations, scenes = array("q"), array("q"), [0]

    def timed() -> Iterator[SourceFrame]:
        for frame in frames:
            times.append(frame.pts)
            durations.append(frame.duration)
            yield SourceFrame(frame.rgb)

    if scene_cuts:
        scenes += [index for index, frame in enumerate(mark_cuts(timed())) if frame.cut]
    else:
        for frame in frames:
            times.append(frame.pts)
            durations.append(frame.duration)
    if not times:
        raise InputError("expected frames in the video, found none; is the file complete?")
    return Survey(times=times, durations=durations, scenes=tuple(scenes))
