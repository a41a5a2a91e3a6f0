"""Several videos with one command: which ones, under which names, and what became of each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bsst.errors import EXIT_REPAIRED, BsstError, OutOfMemoryError, OutputError, UsageError
from bsst.files import what_is_at

if TYPE_CHECKING:
    from bsst.cli.progress import Quiet
    from bsst.cli.remote import Remote
    from bsst.runtime.jobs.report import Result

__all__ = ["Job", "Outcome", "are_many", "plan_jobs", "run_jobs", "split_plan", "worst_status"]

VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".ogv", ".nut", ".y4m", ".avi", ".divx", ".wmv"),
    *(".asf", ".flv", ".mpg", ".mpeg", ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".mxf", ".dv", ".rm", ".rmvb"),
)
"""What is taken from a folder; a file that is named itself may end in anything."""
OWN = (".deblurred", ".preview")
"""Ends of stems of results, which are no sources."""
FIELD = re.compile(r"\{(stem|suffix|folder)\}")
ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Job:
    """One video and where its result goes."""

    video: Path
    out: Path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one of them."""

    job: Job
    status: int
    """Exit status that it alone would have."""
    line: str
    """What to say."""


def split_plan(files: Sequence[Path], plan: Path | None) -> tuple[Path | None, list[Path]]:
    """The plan among arguments, and the rest.

    A plan's name ends in `.plan`, or it comes first and is a ZIP file, which no video is.

    Raises:
        UsageError: several plans, or nothing but a plan.
    """
    plans = [path for path in files if path.suffix.lower() == ".plan"]
    if not plans and plan is None and len(files) > 1 and _is_zip(files[0]):
        plans = [files[0]]
    found = [*([] if plan is None else [plan]), *plans]
    if len(found) > 1:
        raise UsageError(f"expected one plan, got {' and '.join(map(str, found))}; leave all but one out")
    videos = [path for path in files if path not in plans]
    if not videos:
        raise UsageError(f"expected a video besides the plan {found[0]}, got none; name one")
    return found[0] if found else None, videos


def are_many(videos: Sequence[Path], output: Path | None) -> bool:
    """Whether these are more than one file to one file: several, a folder of clips, or names made by a pattern."""
    named = output is not None and (FIELD.search(str(output)) or _is_folder_for(videos, output))
    return len(videos) > 1 or bool(named) or (what_is_at(videos[0]) == "a folder" and _holds_clips(videos[0]))


def plan_jobs(videos: Sequence[Path], output: Path | None, default: Callable[[Path], Path]) -> list[Job]:
    """All videos with the names of their results.

    Args:
        videos: files, folders or patterns of pictures, and folders that are searched for both, with all in them.
        output: a folder, which need not exist, or a pattern of names with {stem}, {suffix} or {folder}: what is before
            the suffix of a video, the suffix that its result would have, and the folder that it was found in, below
            the one that was named. Beside each video by default.
        default: name of the result of a video that is named alone.

    Raises:
        UsageError: a pipe among them, one name for several, or an output that is a source.
    """
    jobs, seen = list[Job](), dict[str, Path]()
    for named in videos:
        if named == Path("-"):
            raise UsageError("expected one pipe or several files, got both; leave - out")
        for video in _found(named):
            if (real := os.path.realpath(video)) in seen:
                continue
            seen[real] = video
            jobs.append(Job(video, _name(video, named, output, default)))
    outputs = dict[str, Path]()
    for job in jobs:
        if (other := outputs.setdefault(os.path.realpath(job.out), job.video)) != job.video:
            raise UsageError(f"expected a name for each result, got {job.out} for {other} and {job.video}; "
                             f"use {{suffix}} or {{folder}} in -o, or two commands")  # fmt: skip
        if (real := os.path.realpath(job.out)) in seen:
            raise UsageError(f"expected results apart from the sources, got {job.out} for {job.video} and "
                             f"{seen[real]}; choose another folder or name with -o")  # fmt: skip
    return jobs


def run_jobs(
    jobs: Sequence[Job],
    restore: Callable[[Job], Result],
    display: Callable[[], Quiet],
    *,
    overwrite: bool,
    remote: Remote,
) -> Iterator[Outcome]:
    """Restore one after another; what is wrong with one does not keep the others.

    Args:
        jobs: what to do.
        restore: does one.
        display: makes what shows failures.
        overwrite: restore those again whose result is there.
        remote: knows what is a copy.

    Yields:
        What became of each, in order, as soon as it is known.
    """
    for job in jobs:
        video, out = remote.name(job.video), remote.name(job.out)
        try:
            if not overwrite and (_is_done(job.out) or remote.is_done(job.out)):
                yield Outcome(job=job, status=0, line=f"{video}: {out} is there, skipped")
                continue
            _make_folder(job.out)
            result = restore(job)
        except BsstError as error:
            yield _failed(job, video, error.exit_code, str(error), display)
        except MemoryError:
            words = "expected more memory, ran out; close other programs"
            yield _failed(job, video, OutOfMemoryError.exit_code, words, display)
        except (BrokenPipeError, KeyboardInterrupt):
            raise
        except Exception as error:
            bug = f"{type(error).__name__}: {error}; this is a bug; run it alone with --debug for a traceback to report"
            yield _failed(job, video, 1, bug, display)
        else:
            status = EXIT_REPAIRED if result.repaired else 0
            repaired = f", {result.repaired} of them unchanged" if result.repaired else ""
            line = f"{video}: {remote.name(result.output)}, {result.frames} frames{repaired}"
            yield Outcome(job=job, status=status, line=line)


def worst_status(outcomes: Sequence[Outcome]) -> int:
    """Repaired frames count least, a bug most, and the rest by number."""
    rank = [0, EXIT_REPAIRED, 2, 3, 4, 5, 6, 7, 1]
    return max((outcome.status for outcome in outcomes), key=rank.index, default=0)


def _failed(job: Job, video: str, status: int, message: str, display: Callable[[], Quiet]) -> Outcome:
    display().failure(f"{video}: {message}")
    return Outcome(job=job, status=status, line=f"{video}: error: {message}")


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == ZIP
    except OSError:
        return False


def _is_folder_for(videos: Sequence[Path], output: Path) -> bool:
    """Whether one video goes into a folder that is there; pictures have their own meaning of it."""
    from bsst.runtime.video.pictures import are_pictures

    return what_is_at(output) == "a folder" and not are_pictures(videos[0])


def _holds_clips(folder: Path) -> bool:
    return any(video != folder for video in _found(folder))


def _found(named: Path) -> Iterator[Path]:
    """What a name stands for: itself, or all videos and folders of pictures in a folder, in natural order."""
    from bsst.runtime.video.pictures import PICTURES, natural

    if what_is_at(named) != "a folder":
        yield named
        return
    empty = True
    for place, folders, names in os.walk(named):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=lambda n: natural(Path(n)))
        files = sorted((Path(place) / name for name in names if not name.startswith(".")), key=natural)
        if any(file.suffix.lower() in PICTURES for file in files):
            empty = False
            yield Path(place)
            continue
        for file in files:
            if file.suffix.lower() in VIDEOS and not file.stem.endswith(OWN):
                empty = False
                yield file
    if empty:
        yield named  # whose reader says what is wrong


def _name(video: Path, named: Path, output: Path | None, default: Callable[[Path], Path]) -> Path:
    usual = default(video)
    if output is None:
        return usual
    place = _place(usual)
    match = re.fullmatch(r"(.+)\.(deblurred|preview)(\.[^.]+)?", place.name)
    assert match is not None, "both kinds of results have such names"
    stem, kind, suffix = match[1], match[2], match[3] or ""
    folder = Path() if video == named else video.relative_to(named).parent
    if FIELD.search(str(output)):
        values = {"stem": stem, "suffix": suffix, "folder": str(folder)}
        return Path(FIELD.sub(lambda field: values[field[1]], str(output)))
    if output.suffix.lower() in VIDEOS or output == Path("-") or "%" in output.name or what_is_at(output) == "a file":
        raise UsageError(f"expected a folder or a pattern such as out/{{stem}}_sharp.mp4 for several results, got "
                         f"{output}; choose one of these")  # fmt: skip
    name = f"{stem}.preview{suffix}" if kind == "preview" else f"{stem}{suffix}"
    return output / folder / name / usual.relative_to(place)


def _place(out: Path) -> Path:
    from bsst.runtime.video.pictures import is_pattern

    return out.parent if is_pattern(out) else out


def _is_done(out: Path) -> bool:
    """Whether a result is there: it appears only when it is whole."""
    place = _place(out)
    return what_is_at(place) == "a file" or (what_is_at(place) == "a folder" and any(place.iterdir()))


def _make_folder(out: Path) -> None:
    parent = _place(out).absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"expected to make the folder {parent}, could not: {error.strerror or error}; choose another with -o"
        ) from error
