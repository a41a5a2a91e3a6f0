"""A finished file gets its name: read back first, durably, and never in place of a file that appeared meanwhile.

Hours of work stand behind it, so what is wrong only at the end costs the name, not the file.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import count
from pathlib import Path

import av
import av.error

from bsst.errors import InputError, OutputError, VerificationError
from bsst.files import sync_directory
from bsst.runtime.video.log import error_text
from bsst.runtime.video.source import file_url, main_video_stream

__all__ = ["publish"]


def publish(
    unfinished: Path,
    out: Path,
    *,
    overwrite: bool,
    times: array[int],
    time_base: Fraction,
    earliest: Fraction,
    problem: OutputError | None = None,
) -> None:
    """Check a finished video and give it its name, or another one beside it that the error tells.

    Args:
        unfinished: closed file on the file system of `out`.
        out: its name.
        overwrite: replace what is there.
        times: of each frame in the source, ascending, in ticks.
        time_base: seconds per tick.
        earliest: see `VideoWriter`.
        problem: why it cannot have its name, where that is known already.

    Raises:
        VerificationError: frames or times are not those of the source.
        OutputError: there is a problem, a file appeared under the name, or it cannot be written.
    """
    try:
        _verify(unfinished, times, time_base, earliest=earliest)
    except VerificationError as error:
        kept = _kept(unfinished, out, "unverified")
        raise VerificationError(f"{error}; the result is kept as {kept}" if kept else str(error)) from error
    try:
        _sync(unfinished)
        if problem is not None:
            kept = _kept(unfinished, out, "new")
            raise OutputError(f"{problem}; the result is kept as {kept}" if kept else str(problem)) from problem
        _name(unfinished, out, overwrite=overwrite)
    except FileExistsError as error:
        kept = _kept(unfinished, out, "new")
        where = f"the result is kept as {kept}" if kept else "choose another name"
        raise OutputError(f"expected no file at {out}, one appeared meanwhile; {where}") from error
    except OSError as error:
        kept = _kept(unfinished, out, "new")
        where = f"the result is kept as {kept}" if kept else "check free space and permissions"
        raise OutputError(f"expected to write {out}, could not: {error.strerror or error}; {where}") from error


def _verify(path: Path, expected: array[int], time_base: Fraction, *, earliest: Fraction) -> None:
    """As many frames, at the same times, or all later by what began before zero."""
    if path.is_dir():
        pictures = sum(1 for entry in os.scandir(path) if entry.stat().st_size)
        if pictures != len(expected):
            raise VerificationError(f"expected {len(expected)} pictures, found {pictures}; check the disk")
        return
    times, ticks = packet_times(path)
    if len(times) != len(expected):
        raise VerificationError(
            f"expected {len(expected)} frames in the result, read back {len(times)}; please report this with the "
            f"source's format"
        )
    delay = times[0] * ticks - expected[0] * time_base
    if abs(delay + min(earliest, expected[0] * time_base)) > ticks:
        delay = Fraction(0)
    tolerance = ticks if delay else ticks / 2
    for index, (found, wanted) in enumerate(zip(times, expected, strict=True)):
        if abs(found * ticks - delay - wanted * time_base) > tolerance:
            raise VerificationError(
                f"expected frame {index} at {float(wanted * time_base):.4f} s, read back {float(found * ticks):.4f} s; "
                f"try an output name that ends in .mkv"
            )


def packet_times(path: Path) -> tuple[list[int], Fraction]:
    """Presentation times of a finished video file, ascending, and the seconds per tick; nothing is decoded.

    Raises:
        VerificationError: the file cannot be read back.
    """
    try:
        with av.open(file_url(path), "r") as container:
            stream = main_video_stream(container)
            times = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
            return times, Fraction(stream.time_base or 1)
    except (av.error.FFmpegError, OSError, InputError) as error:
        raise VerificationError(
            f"expected a readable result in {path}, got {error_text(error)}; check the disk"
        ) from error


def _sync(path: Path) -> None:
    if path.is_dir():
        for picture in path.iterdir():
            _sync(picture)
        return
    with path.open("r+b") as file:  # Windows syncs only what may be written
        os.fsync(file.fileno())


def _name(unfinished: Path, out: Path, *, overwrite: bool) -> None:
    """Rename; without `overwrite` in one step that fails where there is a file.

    Raises:
        FileExistsError: there is one.
        OSError: the name cannot be written.
    """
    if unfinished.is_dir():
        if out.exists():
            try:
                out.rmdir()  # empty, or somebody's
            except OSError as error:
                raise FileExistsError(str(error)) from error
        os.rename(unfinished, out)
    elif overwrite or os.name == "nt":  # Windows renames over nothing unless told
        (os.replace if overwrite else os.rename)(unfinished, out)
    else:
        try:
            os.link(unfinished, out)
        except FileExistsError:
            raise
        except OSError:  # FAT, exFAT and some network file systems have no second names: reserve this one instead
            with out.open("xb"):
                pass
            try:
                os.replace(unfinished, out)
            except OSError:
                out.unlink()
                raise
        else:
            unfinished.unlink()
    sync_directory(out.parent)


def _kept(unfinished: Path, out: Path, why: str) -> Path | None:
    """`clip.mp4` -> `clip.<why>.mp4`, or the first free of `clip.<why>-2.mp4` and so on; None if it cannot be."""
    with suppress(OSError):
        for path in _candidates(out, why):
            with suppress(FileExistsError):
                _name(unfinished, path, overwrite=False)
                return path
    return None


def _candidates(out: Path, why: str) -> Iterator[Path]:
    yield out.with_name(f"{out.stem}.{why}{out.suffix}")
    yield from (out.with_name(f"{out.stem}.{why}-{number}{out.suffix}") for number in count(2))
