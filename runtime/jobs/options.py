"""What may be chosen about a job besides the video, its parts and how it is cut up."""

from __future__ import annotations

from dataclasses import dataclass

from bsst.runtime.video.pipes import PipeFormat
from bsst.runtime.video.quality import DEFAULT_CRF
from bsst.runtime.video.reader import HWAccelChoice
from bsst.runtime.video.sound import Audio
from bsst.system import usable_cores

__all__ = ["Execution", "OutputFormat", "threads_of_worker"]


@dataclass(frozen=True, kw_only=True)
class OutputFormat:
    """How the result is written."""

    lossless: bool = False
    """Keep the restored frames exactly (FFV1 in .mkv, lossless H.264 in .mp4)."""
    crf: int = DEFAULT_CRF
    """Quality of the encoder, 0 (best) to 51."""
    audio: Audio = "copy"
    """"copy" sound and convert what cannot be copied, "convert" all of it, or "none"."""
    pipe_format: PipeFormat | None = None
    """What goes to standard output; what came from standard input by default, or NUT."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Who does the work. An opened plan has its own threads and clips in flight."""

    threads: int = 0
    """Threads of the network; 0 for all cores."""
    in_flight: int = 2
    """Clips under way at once; 1 for the least memory."""
    devices: tuple[str, ...] = ()
    """"cpu" or "cuda:<index>", one for each process that restores segments; none for this process alone."""
    ray: str = ""
    """Address of a Ray cluster whose workers restore segments; "auto" for the one that this machine belongs to."""
    hwaccel: HWAccelChoice = "auto"
    """Decode and encode on an NVIDIA GPU; "auto" does for plans that run on one, where its codecs work."""
    resume: bool = True
    """Go on where the same job was interrupted; otherwise what it finished is thrown away."""
    keep_work: bool = False
    """Leave the work folder, with the encoded segments, beside the output."""
    share: tuple[int, int] | None = None
    """(k, n): restore share k of n, k from 1 to n, into the work folder and stop. Other processes that see the folder
    may restore the other shares meanwhile; the same job without a share joins them."""


def threads_of_worker(execution: Execution) -> int:
    """Threads of the network in each process of a job that has several on this machine."""
    return execution.threads or max(1, usable_cores() // len(execution.devices))
