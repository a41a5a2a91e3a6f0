"""The work folder of a job, beside its output: what is finished survives a crash, a kill and a power cut.

    .bsst-<output>-<hash>/
        job.json        what makes the job this job and no other: source, plan, options, version
        survey.json     times and scenes of the source
        journal.jsonl   one line for each finished segment, appended and synced after the segment's file
        000017.nut      encoded segments, each written under another name, synced and renamed
        lock            held by the process that works here

Processes that restore a share each have a journal and a lock of their own, `journal-2-of-5.jsonl` and `lock-2-of-5`;
they hold `lock` only while they open the folder. Locks are `flock`'s, which Linux passes on over NFS.

A segment counts only if its journal line is whole and its file has the size and the SHA-256 of that line. The last line
may be torn by a power cut: it is dropped, and so is everything after the first line that cannot be read.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from bsst.errors import OutputError
from bsst.files import atomic_file
from bsst.runtime.jobs.segment import Segment
from bsst.runtime.jobs.survey import Survey

__all__ = [
    "Finished",
    "WorkFolder",
    "file_digest",
    "read_survey",
    "remove_leftovers",
    "require_free",
    "segment_path",
    "source_key",
]

OPENING_SECONDS = 60
"""How long a share waits for others that open the folder."""
EDGE = 1 << 20
"""Bytes at each end of the source that its key covers."""
GONE = ".gone"
"""End of the name of a folder that is being thrown away."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A line of the journal."""

    segment: Segment
    sha256: str
    size: int
    fallback: int
    """Frames of windows that the float32 fallback restored."""
    guarded: int
    """Frames in which an implausible change was blended back."""
    repaired: tuple[int, ...]
    """Index in the video of each frame that the source's stands in for."""
    device: str
    """What restored it."""


class WorkFolder:
    """Opens or creates the folder and locks it. Use as a context manager.

    Args:
        out: output of the job.
        key: JSON values by name; equal keys give equal results.
        resume: go on with what is there; otherwise it is thrown away.
        share: (k, n) where other processes may restore other shares of the n here meanwhile.

    Raises:
        OutputError: another process works on the same output or share, the folder holds finished segments of another
            job, or it cannot be written.
    """

    def __init__(
        self, out: Path, key: dict[str, Any], *, resume: bool = True, share: tuple[int, int] | None = None
    ) -> None:
        self.path = _work_folder(out)
        self._out, self._key = out, json.loads(json.dumps(key))
        self.finished: dict[Segment, Finished] = {}
        suffix = "" if share is None else f"-{share[0]}-of-{share[1]}"
        self._alone = share is None
        self._journal = self.path / f"journal{suffix}.jsonl"
        self._lock = FileLock(self.path / f"lock{suffix}")
        try:
            self.path.mkdir(exist_ok=True)
            self._take(self._lock)
        except OSError as error:
            raise OutputError(f"expected to write {self.path}, could not: {error.strerror or error}; "
                              f"check free space and permissions") from error  # fmt: skip
        try:
            if self._alone:
                for path in self.path.glob("lock-*"):
                    with self._take(FileLock(path)):
                        pass
                self._open(resume)
            else:
                with self._take(FileLock(self.path / "lock"), wait=OPENING_SECONDS):
                    self._open(resume)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _take(self, lock: FileLock, *, wait: float = 0) -> AbstractContextManager[Any]:
        """Acquire a lock, which leaving the result releases."""
        try:
            return lock.acquire(timeout=wait)
        except Timeout as error:
            raise _busy(self._out, self.path) from error

    def survey(self) -> Survey | None:
        """What `keep_survey` kept, if it can be read."""
        return read_survey(self.path)

    def keep_survey(self, survey: Survey) -> None:
        """Store; those of several shares are equal."""
        with atomic_file(self.path / "survey.json") as file:
            file.write(json.dumps(survey.to_json()).encode())

    def segment_path(self, segment: Segment) -> Path:
        """Where the encoded frames of a segment lie when they are finished."""
        return segment_path(self.path, segment)

    def add(self, line: Finished) -> None:
        """Count a segment whose file is in place: from here on it survives anything.

        Raises:
            OutputError: the journal cannot be written.
        """
        text = json.dumps(asdict(line)) + "\n"
        try:
            with self._journal.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"expected to write {self.path}, could not: {error.strerror}; free space") from error
        self.finished[line.segment] = line

    def remove(self) -> None:
        """Throw everything away: the name first, so that what a kill leaves of it is no job any more."""
        gone = self.path.with_name(f"{self.path.name}-{secrets.token_hex(4)}{GONE}")
        try:
            self.path.rename(gone)
        except OSError:
            gone = self.path
        shutil.rmtree(gone, ignore_errors=True)
        self._lock.release()

    def _open(self, resume: bool) -> None:
        stored: Any = None
        with suppress(OSError, ValueError):
            stored = json.loads((self.path / "job.json").read_text())
        if resume and stored == self._key:
            self._load()
            return
        if resume and isinstance(stored, dict):
            self._load()
            if self.finished:
                names = [name for name in {**stored, **self._key} if stored.get(name) != self._key.get(name)]
                then, now = ({name: values.get(name) for name in names} for values in (stored, self._key))
                raise OutputError(
                    f"expected in {self.path} a job with {_words(now)}, found one with {_words(then)}; finish that one "
                    f"with its own options, choose another output, or pass --no-resume to throw it away"
                )
        self.finished = {}
        for path in self.path.iterdir():
            if not path.name.startswith("lock"):
                path.unlink()
        with atomic_file(self.path / "job.json") as file:
            file.write(json.dumps(self._key).encode())

    def _load(self) -> None:
        """Read the journals, each up to the first line that is not whole, and forget what lost its file."""
        for journal in sorted(self.path.glob("journal*.jsonl")):
            whole = list(self._read(journal))
            if self._alone or journal == self._journal:  # others are at work on theirs
                with atomic_file(journal) as file:
                    file.write("".join(whole).encode())
        if self._alone:
            for path in self.path.glob("*.tmp"):
                path.unlink()

    def _read(self, journal: Path) -> Iterator[str]:
        for text in journal.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            try:
                values = json.loads(text)
                line = Finished(
                    **{**values, "segment": Segment(**values["segment"]), "repaired": tuple(values["repaired"])}
                )
            except (ValueError, KeyError, TypeError):
                return
            if not text.endswith("\n"):
                return
            path = self.segment_path(line.segment)
            with suppress(OSError):
                if path.stat().st_size == line.size and file_digest(path) == line.sha256:
                    self.finished[line.segment] = line
                    yield text


def require_free(out: Path) -> None:
    """Refuse an output that another job is writing, before anything is loaded; `WorkFolder` has the last word.

    Raises:
        OutputError: another process works on it.
    """
    folder = _work_folder(out)
    if not (folder / "lock").exists():
        return
    try:
        with FileLock(folder / "lock").acquire(timeout=0):
            pass
    except Timeout as error:
        raise _busy(out, folder) from error
    except OSError:  # of a folder that cannot be written, or is just being removed: told later, or gone
        return


def _busy(out: Path, folder: Path) -> OutputError:
    return OutputError(f"expected no other job that writes {out}, another process works in {folder}; wait for it")


def remove_leftovers(out: Path) -> None:
    """Remove what a process that was killed while it threw a work folder of this output away left of it."""
    for left in out.parent.glob(f"{glob.escape(_work_folder(out).name)}-*{GONE}"):
        shutil.rmtree(left, ignore_errors=True)


def read_survey(folder: Path) -> Survey | None:
    """The survey in a work folder, if there is one that can be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return Survey.from_json(json.loads((folder / "survey.json").read_text()))
    return None


def segment_path(folder: Path, segment: Segment) -> Path:
    """Where the encoded frames of a segment lie in a work folder."""
    return folder / f"{segment.keep_from:09}.nut"


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_key(path: Path) -> str:
    """Size, time of change, and SHA-256 of the ends of a file in one word."""
    state = path.stat()
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(EDGE))
        file.seek(max(0, state.st_size - EDGE))
        digest.update(file.read(EDGE))
    return f"{state.st_size}-{state.st_mtime_ns}-{digest.hexdigest()[:16]}"


def _work_folder(out: Path) -> Path:
    name = hashlib.sha256(os.fsencode(out.name)).hexdigest()[:8]
    return out.with_name(f".bsst-{out.stem[:40]}-{name}")


def _words(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
