"""Jobs on disk: a folder each, named by a random id, that survives whatever ends the server.

    <folder>/lock                held by the one server that works here
    <folder>/job-<id>/job.json   the job, replaced whole at each change of its state
    <folder>/job-<id>/source.*   what was uploaded or fetched; a file that was named stays where it is
    <folder>/job-<id>/result.*   the result, once it was verified; beside it the work folder of the unfinished job
    <folder>/job-<id>/preview.mp4  a second of it, source and result side by side, where it was asked for
    <folder>/job-<id>/log.txt    what the process that restores has to say beside its events

An id is looked up among the jobs in memory, never on disk, so no text of a caller becomes part of a path.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from filelock import FileLock, Timeout

from bsst.errors import OutputError, UsageError
from bsst.files import atomic_file
from bsst.runtime.jobs.output import default_output
from bsst.web.options import JobOptions

__all__ = ["Job", "JobStore", "State"]

State = Literal["queued", "running", "done", "failed", "cancelled"]
ROOM = re.compile(r"job-([0-9a-f]{16})")


@dataclass
class Job:
    """One video on its way. What is not stored begins anew with the server."""

    id: str
    name: str
    """File name of the source, for people."""
    source: Path
    result: Path
    options: JobOptions
    is_video: bool = False
    """Its source was opened as a video: what is none is never handed out, whoever named it."""
    state: State = "queued"
    created: float = field(default_factory=time.time)
    """Seconds since 1970."""
    error: str = ""
    """One line, of a job that failed."""
    exit_status: int | None = None
    """As of `bsst run`; None before the job ended."""
    previewed: bool = False
    """Its preview can be watched."""
    warnings: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    """Frames, seconds, and what else `bsst.Result` says of a finished job."""
    progress: dict[str, Any] = field(default_factory=dict)
    """As `bsst.Progress`; not stored."""
    info: list[str] = field(default_factory=list)
    """What runs the plan, what decodes and encodes; not stored."""

    @property
    def folder(self) -> Path:
        """Where the job lives."""
        return self.result.parent

    @property
    def preview(self) -> Path:
        """Where its preview is, or will be."""
        return self.folder / "preview.mp4"

    @property
    def download(self) -> str:
        """Name of the result for who downloads it."""
        return Path(self.name).stem + ".deblurred" + self.result.suffix

    def public(self) -> dict[str, Any]:
        """What callers see: no path of this machine."""
        hidden = ("source", "result", "options", "is_video")
        values = {name: value for name, value in asdict(self).items() if name not in hidden}
        part = self.options.part()
        start = 0.0 if part is None else float(part.start)
        return {**values, "options": self.options.to_json(), "download": self.download, "start_seconds": start}


class JobStore:
    """The jobs of one folder, oldest first. Use as a context manager; one process at a time.

    Args:
        folder: created where missing, readable by its owner alone.

    Raises:
        OutputError: another server works there, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[str, Job] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = FileLock(folder / "lock")
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise OutputError(
                f"expected no other server in {folder}, one runs; use its page or pass --folder"
            ) from error
        except OSError as error:
            raise OutputError(
                f"expected to write {folder}, could not: {error.strerror or error}; pass --folder"
            ) from error

    def __enter__(self) -> Self:
        self._load()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def room(self) -> Path:
        """A new folder with a name that cannot be guessed; swept at the next start unless `add` makes it a job."""
        folder = self.folder / f"job-{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700)
        return folder

    def add(self, room: Path, name: str, source: Path, options: JobOptions) -> Job:
        """A queued job in a room."""
        result = room / f"result{_suffix(source, options)}"
        job = Job(id=room.name.removeprefix("job-"), name=name, source=source, result=result, options=options)
        self.save(job)
        self.jobs[job.id] = job
        return job

    def save(self, job: Job) -> None:
        """Store what survives.

        Raises:
            OutputError: it cannot be written.
        """
        values = {**asdict(job), "source": str(job.source), "result": job.result.name, "options": job.options.to_json()}
        del values["progress"], values["info"]
        with atomic_file(job.folder / "job.json") as file:
            file.write(json.dumps(values).encode())

    def remove(self, job: Job) -> None:
        """Forget a job, with everything in its folder; a source that was named is left alone."""
        del self.jobs[job.id]
        # Without this file the folder is no job any more, should the rest survive a crash.
        (job.folder / "job.json").unlink(missing_ok=True)
        shutil.rmtree(job.folder, ignore_errors=True)

    def waiting(self) -> Job | None:
        """The oldest job that is queued."""
        return next((job for job in self.jobs.values() if job.state == "queued"), None)

    def used_bytes(self) -> int:
        """Size of everything in the folder."""
        total = 0
        for place, _, names in os.walk(self.folder):
            for name in names:
                with suppress(OSError):
                    total += os.lstat(os.path.join(place, name)).st_size
        return total

    def _load(self) -> None:
        """Read every job; what ran is queued again."""
        found = []
        for folder in self.folder.iterdir():
            if not ROOM.fullmatch(folder.name) or folder.is_symlink():
                continue
            if not (folder / "job.json").exists():  # an upload that never ended
                shutil.rmtree(folder, ignore_errors=True)
            elif (job := _read(folder)) is not None:
                found.append(job)
        for job in sorted(found, key=lambda job: job.created):
            if job.state == "running":
                job.state = "queued"
            self.jobs[job.id] = job


def _read(folder: Path) -> Job | None:
    try:
        values: Mapping[str, Any] = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        known = {**values, "id": folder.name.removeprefix("job-"), "source": Path(values["source"])}
        known |= {"result": folder / Path(values["result"]).name, "options": JobOptions(**values["options"])}
        return Job(**known)
    except (OSError, ValueError, KeyError, TypeError, UsageError):
        return None


def _suffix(source: Path, options: JobOptions) -> str:
    if options.format != "source":
        return f".{options.format}"
    return ".mkv" if options.lossless else default_output(source).suffix
