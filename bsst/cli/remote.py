"""URLs among the names of a command, and the local files that stand for them while it works."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bsst.errors import OutputError, UsageError
from bsst.runtime.video.remote import RemoteFile, is_url, local_folder
from bsst.runtime.video.writer import CONTAINERS

__all__ = ["Remote"]

Say = Callable[[str], None]


class Remote:
    """Knows which local file is a copy of what."""

    def __init__(self) -> None:
        self._sources = dict[Path, RemoteFile]()
        self._place: tuple[str, Path] | None = None
        """URL of the folder of results, and its local one."""

    def source(self, text: str) -> Path:
        """Where a video is, or will be once `fetch` was called.

        Raises:
            UsageError: an empty name, which would be the present folder: most likely a variable that is not set.
        """
        if not text:
            raise UsageError("expected the name of a video, got an empty one; is a variable of your script not set?")
        if not is_url(text):
            return Path(text)
        file = RemoteFile(text)
        local = file.local()
        self._sources[local] = file
        return local

    def output(self, text: str) -> Path:
        """What to write: a file, a folder or a pattern, here or on its way.

        Raises:
            UsageError: an empty name, or no video below a URL.
        """
        if not text:
            raise UsageError("expected a name after -o, got an empty one; is a variable of your script not set?")
        if not is_url(text):
            return Path(text)
        base, rest = text.rstrip("/"), ""
        if "{" in text or Path(text).suffix.lower() in CONTAINERS:
            base = text.partition("{")[0].rpartition("/")[0] if "{" in text else text.rpartition("/")[0]
            rest = text[len(base) + 1 :]
        if "://" not in base or "%" in rest:
            raise UsageError(
                f"expected a video file, a folder or a pattern of videos in a bucket or folder, got {text}"
            )
        self._place = base, local_folder(base)
        return self._place[1] / rest

    def is_remote(self, video: Path) -> bool:
        """Whether a video is a copy."""
        return video in self._sources

    def name(self, path: Path) -> str:
        """What to call a source or a result."""
        if path in self._sources:
            return self._sources[path].url
        return self._url(path) or str(path)

    def is_done(self, out: Path) -> bool:
        """Whether a result is there already, behind its URL.

        Raises:
            OutputError: that cannot be known.
        """
        url = self._url(out)
        return url is not None and RemoteFile(url).exists()

    def fetch(self, video: Path, say: Say) -> None:
        """Copy a video here, if it is elsewhere."""
        if video in self._sources:
            self._sources[video].fetch(video, say)

    def finish(self, video: Path, out: Path, say: Say) -> None:
        """Copy a result to where it belongs, and forget all copies.

        Raises:
            OutputError: it could not be copied and is kept here.
        """
        url = self._url(out)
        if url is not None:
            if not out.is_file():
                raise OutputError(f"expected a video file to copy to {url}, got a folder; it is kept as {out}")
            RemoteFile(url).store(out, say)
            out.unlink()
            assert self._place is not None
            for folder in (out.parent, *out.parent.parents):
                if self._place[1] in (folder, *folder.parents):
                    with suppress(OSError):  # others are there
                        folder.rmdir()
        if video in self._sources:
            shutil.rmtree(video.parent, ignore_errors=True)

    def _url(self, out: Path) -> str | None:
        if self._place is None or self._place[1] not in out.parents:
            return None
        return f"{self._place[0]}/{out.relative_to(self._place[1]).as_posix()}"
