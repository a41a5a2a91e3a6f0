"""The output of a job: its name checked before any work, its content afterwards, its name given last."""

from __future__ import annotations

import os
from array import array
from fractions import Fraction
from pathlib import Path

from bsst.errors import OutputError, UsageError, VerificationError
from bsst.files import what_is_at
from bsst.runtime.video.reader import packet_times
from bsst.runtime.video.writer import CONTAINERS

__all__ = ["container_of", "default_output", "publish", "verify"]


def default_output(video: Path) -> Path:
    """`clip.mp4` -> `clip.deblurred.mp4`; containers that cannot be written become Matroska."""
    suffix = video.suffix if video.suffix.lower() in CONTAINERS else ".mkv"
    return video.with_name(f"{video.stem}.deblurred{suffix}")


def container_of(video: Path, out: Path, *, overwrite: bool, crf: int) -> str:
    """Check what can be checked before any work -> FFmpeg name of the output's container."""
    container = CONTAINERS.get(out.suffix.lower())
    if container is None:
        raise UsageError(
            f"expected an output name that ends in {', '.join(CONTAINERS)}, got {out.name}; choose one of these"
        )
    if not 0 <= crf <= 51:
        raise UsageError(f"expected a crf of 0 to 51, got {crf}; 16 looks like the source, larger is smaller and worse")
    if not out.parent.is_dir():
        raise OutputError(f"expected an existing folder for {out}, found none; create {out.parent} first")
    try:
        out.exists()
    except OSError as error:  # a name that the file system cannot hold, which is known after the work otherwise
        raise OutputError(f"expected to write {out}, got {error.strerror}; choose another name with -o") from error
    found = what_is_at(out)
    if found != "nothing" and what_is_at(video) != "nothing" and out.samefile(video):
        raise UsageError(f"expected an output other than the input, got {out} for both; choose another name with -o")
    if found == "a file" and not overwrite:
        raise OutputError(f"expected no file at {out}, found one; choose another name or pass --overwrite")
    if found not in ("a file", "nothing"):
        raise OutputError(f"expected a file or nothing at {out}, found {found}; choose another name with -o")
    return container


def verify(path: Path, expected: array[int], time_base: Fraction, *, earliest: Fraction) -> None:
    """Read the finished file back: as many frames, at the same times, or all later by what began before zero.

    Raises:
        VerificationError: it differs.
    """
    times, ticks = packet_times(path)
    if len(times) != len(expected):
        raise VerificationError(
            f"expected {len(expected)} frames in the result, read back {len(times)}; the result was discarded, "
            f"please report this with the source's format"
        )
    delay = times[0] * ticks - expected[0] * time_base
    if abs(delay + min(earliest, expected[0] * time_base)) > ticks:
        delay = Fraction(0)
    tolerance = ticks if delay else ticks / 2
    for index, (found, wanted) in enumerate(zip(times, expected, strict=True)):
        if abs(found * ticks - delay - wanted * time_base) > tolerance:
            raise VerificationError(
                f"expected frame {index} at {float(wanted * time_base):.4f} s, read back {float(found * ticks):.4f} s; "
                f"the result was discarded, try an output name that ends in .mkv"
            )


def publish(unfinished: Path, out: Path, *, overwrite: bool) -> None:
    """Make the file durable, then give it its name."""
    try:
        with unfinished.open("r+b") as file:  # Windows syncs only what may be written
            os.fsync(file.fileno())
        if out.exists() and not overwrite:
            raise OutputError(f"expected no file at {out}, one appeared meanwhile; choose another name")
        unfinished.replace(out)
    except OSError as error:
        raise OutputError(f"expected to write {out}, could not: {error}; check free space and permissions") from error
