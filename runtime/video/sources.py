"""What frames can come from: a file, a folder or pattern of pictures, or a pipe, all read alike."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

from bsst.errors import UsageError
from bsst.runtime.video.pictures import PictureReader, are_pictures, picture_paths
from bsst.runtime.video.pipes import PIPE, PipeReader
from bsst.runtime.video.reader import VideoReader
from bsst.runtime.video.scan import Scan

__all__ = ["Reader", "open_reader", "other_streams", "paths_of", "pictures_key"]

Reader = VideoReader | PictureReader


def open_reader(source: Path, *, rate: Fraction | None = None, scan: Scan | None = None) -> Reader:
    """Open any source.

    Args:
        source: file; folder or pattern such as `%06d.png`; "-" for standard input.
        rate: pictures a second, 25 by default; of pictures only.
        scan: see `VideoReader`.

    Raises:
        UsageError: a rate for what has its own.
        InputError: it cannot be read.
    """
    if are_pictures(source):
        return PictureReader(source, rate=rate)
    if rate is not None:
        raise UsageError(f"expected a rate for pictures only, got {rate} for {source}, which has its own; leave it out")
    return PipeReader() if source == PIPE else VideoReader(source, scan=scan)


def other_streams(source: Path) -> Path | None:
    """The file whose sound and metadata belong to the frames, if any."""
    return None if source == PIPE or are_pictures(source) else source


def paths_of(source: Path) -> tuple[Path, ...]:
    """All files of a source that can be read again."""
    return picture_paths(source) if are_pictures(source) else (source,)


def pictures_key(source: Path) -> str:
    """Names, sizes and times of change of pictures in one word."""
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in picture_paths(source)]
    return f"{len(states)}-{hashlib.sha256(repr(states).encode()).hexdigest()[:16]}"
