"""The name of a job's output, and what can be said against it before any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bsst.errors import OutputError, UsageError
from bsst.files import what_is_at
from bsst.runtime.jobs.options import OutputFormat
from bsst.runtime.video.cut import Cut
from bsst.runtime.video.encoder import EncoderSettings
from bsst.runtime.video.pictures import (
    PICTURES,
    PictureReader,
    PictureWriter,
    are_pictures,
    is_pattern,
    picture_names,
)
from bsst.runtime.video.reader import HWAccelChoice
from bsst.runtime.video.sources import Reader, other_streams
from bsst.runtime.video.writer import CONTAINERS, VideoWriter

__all__ = ["PICTURE_FILES", "Output", "Writer", "default_output", "default_preview", "folder_beside", "output_of"]


PICTURE_FILES = "pictures"
Writer = VideoWriter | PictureWriter


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a job writes: a video file, or a folder of pictures."""

    path: Path
    """What was asked for: a file, a folder, or a pattern of pictures in a folder."""
    container: str
    """FFmpeg's name of it, or `PICTURE_FILES`."""
    overwrite: bool

    @property
    def place(self) -> Path:
        """The file or folder that appears when all is done."""
        return self.path.parent if is_pattern(self.path) else self.path

    def writer(
        self, unfinished: Path, reader: Reader, *, source: Path, output_format: OutputFormat, hwaccel: HWAccelChoice,
        cut: Cut | None = None, encoder: tuple[EncoderSettings, str] | None = None,
    ) -> Writer:  # fmt: skip
        """Open it under another name; see `VideoWriter` and `PictureWriter`."""
        if self.container == PICTURE_FILES:
            origin = 0 if cut is None else round(cut.start / reader.info.time_base)
            paths = reader.paths if isinstance(reader, PictureReader) else ()
            names, suffix = picture_names(self.path, paths)
            return PictureWriter(unfinished, names, suffix, reader.info, origin=origin)
        return VideoWriter(
            unfinished,
            self.container,
            reader.info,
            source=other_streams(source),
            lossless=output_format.lossless,
            crf=output_format.crf,
            hwaccel=hwaccel,
            cut=cut,
            audio=output_format.audio,
            encoder=encoder,
        )


def default_output(video: Path) -> Path:
    """`clip.mp4` -> `clip.deblurred.mp4`; containers that cannot be written become Matroska; pictures stay pictures."""
    if is_pattern(video):
        return video.parent.with_name(f"{video.parent.name}.deblurred") / video.name
    if are_pictures(video):
        return video.with_name(f"{video.resolve().name}.deblurred")
    suffix = video.suffix if video.suffix.lower() in CONTAINERS else ".mkv"
    return video.with_name(f"{video.stem}.deblurred{suffix}")


def default_preview(video: Path) -> Path:
    """`clip.mp4` -> `clip.preview.mp4`; a video of pictures too."""
    place = default_output(video)
    place = place.parent if is_pattern(place) else place
    suffix = place.suffix if place.suffix.lower() in CONTAINERS else ".mp4"
    return place.with_name(f"{place.name.removesuffix(place.suffix).removesuffix('.deblurred')}.preview{suffix}")


def output_of(video: Path, out: Path, *, overwrite: bool, crf: int) -> Output:
    """Check what can be checked before any work.

    Raises:
        UsageError: the name says nothing that can be written, or is that of the source.
        OutputError: the output exists or its folder does not.
    """
    if not is_pattern(out) and (out.suffix.lower() in CONTAINERS or not are_pictures(video)):
        return Output(path=out, container=container_of(video, out, overwrite=overwrite, crf=crf), overwrite=overwrite)
    output = Output(path=out, container=PICTURE_FILES, overwrite=False)
    if is_pattern(out) and out.suffix.lower() not in PICTURES:
        raise UsageError(f"expected pictures that end in {', '.join(PICTURES)}, got {out.name}; choose one of these")
    place = output.place
    if not place.absolute().parent.is_dir():
        raise OutputError(
            f"expected an existing folder for {place}, found none; create {place.absolute().parent} first"
        )
    _require_empty(place)
    return output


def _require_empty(place: Path) -> None:
    found = what_is_at(place)
    if found not in ("nothing", "a folder") or (found == "a folder" and any(place.iterdir())):
        found = f"{found} with something in it" if found == "a folder" else found
        raise OutputError(f"expected nothing or an empty folder at {place}, found {found}; choose another name with -o")


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


@contextmanager
def folder_beside(place: Path) -> Iterator[Path]:
    """A folder on the file system of an output, gone in the end.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        with TemporaryDirectory(prefix=".bsst-", dir=place.absolute().parent) as folder:
            yield Path(folder)
    except PermissionError as error:
        raise OutputError(f"expected to write {place}, could not: {error.strerror}; choose another place") from error
