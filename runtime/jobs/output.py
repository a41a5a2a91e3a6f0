"""The name of a job's output, and what can be said against it before any work."""

from __future__ import annotations

from pathlib import Path

from bsst.errors import OutputError, UsageError
from bsst.files import what_is_at
from bsst.runtime.video.writer import CONTAINERS

__all__ = ["container_of", "default_output"]


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
    if found == "nothing" and out.is_symlink():
        raise OutputError(f"expected a file or nothing at {out}, found a link that leads nowhere; remove it")
    if found != "nothing" and what_is_at(video) != "nothing" and out.samefile(video):
        raise UsageError(f"expected an output other than the input, got {out} for both; choose another name with -o")
    if found == "a file" and not overwrite:
        raise OutputError(f"expected no file at {out}, found one; choose another name or pass --overwrite")
    if found not in ("a file", "nothing"):
        raise OutputError(f"expected a file or nothing at {out}, found {found}; choose another name with -o")
    return container
