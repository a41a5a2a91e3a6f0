"""One decoding pass over a video: the time of every frame and where scenes begin."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bsst.errors import InputError
from bsst.runtime.frames.scenes import CutFinder, luma_step
from bsst.runtime.video.decoded import Frame
from bsst.runtime.video.facts import Stated
from bsst.runtime.video.scan import Scan
from bsst.runtime.video.timeline import Timeline

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
    digests: array[int] = field(default_factory=lambda: array("L"))
    """`Frame.digest` of each; none where frames cannot be found by their times."""
    scan: Scan | None = None
    """What the reader found before it decoded."""
    warnings: tuple[str, ...] = ()
    """What the reader said about the video by its end."""

    def to_json(self) -> dict[str, Any]:
        """For the work folder."""
        return {
            "times": list(self.times),
            "durations": list(self.durations),
            "scenes": self.scenes,
            "digests": list(self.digests),
            "scan": self.scan
            and {
                "stream": self.scan.stream,
                "frames": self.scan.frames,
                "steps": list(self.scan.timeline.steps.items()),
                "chroma_location": self.scan.stated.chroma_location,
            },
            "warnings": self.warnings,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Survey:
        """What `to_json` made.

        Raises:
            KeyError, TypeError: something else.
        """
        scan = values["scan"]
        return cls(
            digests=array("L", values["digests"]),
            scan=scan
            and Scan(
                stream=scan["stream"],
                frames=scan["frames"],
                timeline=Timeline({stream: tuple(map(tuple, steps)) for stream, steps in scan["steps"]}),
                stated=Stated(chroma_location=scan["chroma_location"]),
                warnings=(),
            ),
            times=array("q", values["times"]),
            durations=array("q", values["durations"]),
            scenes=tuple(values["scenes"]),
            warnings=tuple(values["warnings"]),
        )


def take_survey(frames: Iterable[Frame], *, scene_cuts: bool, scan: Scan | None = None) -> Survey:
    """Read a video once, without computing its colours.

    Args:
        frames: of the whole video.
        scene_cuts: whether to look for scenes at all.
        scan: what its reader found.

    Raises:
        InputError: there are no frames.
    """
    times, durations, digests, scenes = array("q"), array("q"), array("L"), list[int]()
    finder, exact = CutFinder(), True
    for index, frame in enumerate(frames):
        times.append(frame.pts)
        durations.append(frame.duration)
        digests.append(frame.digest)
        exact = exact and frame.exact
        height, width = frame.planes[0].shape
        cut = scene_cuts and finder.see(frame.luma(luma_step(height, width)))
        if cut or index == 0:
            scenes.append(index)
    if not times:
        raise InputError("expected frames in the video, found none; is the file complete?")
    return Survey(
        times=times,
        durations=durations,
        scenes=tuple(scenes),
        digests=digests if exact else array("L"),
        scan=scan,
    )
