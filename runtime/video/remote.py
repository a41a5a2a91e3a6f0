"""Videos behind URLs (`s3://`, `gs://`, `https://`, ...), through fsspec: copied here before, and there after the work.

A job reads its source several times and from any place, and goes on after a crash with what it has, so it works on a
local copy. Copies lie in the cache folder (`BSST_CACHE_DIR`), each under a key of its URL and state: a source that
changed is another one.

Source: fsspec documentation, `fsspec.core.url_to_fs`, `AbstractFileSystem.get_file` and `put_file`.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bsst.errors import BsstError, InputError, MissingDependencyError, OutputError, UsageError
from bsst.files import cache_directory

__all__ = ["RemoteFile", "is_url", "local_folder"]

SECONDS = 10
"""Between two words on how far a copy is."""


def is_url(text: str) -> bool:
    """Whether a name is a URL; drives of Windows are one letter."""
    return re.match(r"[a-z][a-z0-9+.-]+://", text) is not None


class RemoteFile:
    """A file behind a URL.

    Args:
        url: any that fsspec knows.

    Raises:
        MissingDependencyError: fsspec or what it needs for such URLs is not installed.
        UsageError: nothing knows such URLs.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2] or urlsplit(url).netloc)
        try:
            import fsspec.core
        except ImportError as error:
            raise MissingDependencyError("fsspec", "remote", f"reading and writing {url}") from error
        protocol = url.partition("://")[0]
        try:
            self._system, self._path = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise MissingDependencyError(_package(error), "remote", f"{protocol}://") from error
        except ValueError as error:
            raise UsageError(
                f"expected a URL that fsspec knows, got {url} ({_line(error)}); download the file first"
            ) from error

    def local(self) -> Path:
        """Where its copy lies, once it is fetched.

        Raises:
            InputError: it cannot be found.
        """
        with self._errors(InputError, "reach"):
            info = self._system.info(self._path)
        if info.get("type") == "directory":
            raise InputError(f"expected a file at {self.url}, got a folder; name the videos in it")
        state = {name: str(info[name]) for name in ("size", "ETag", "etag", "mtime", "LastModified") if name in info}
        key = hashlib.sha256(repr((self.url, state)).encode()).hexdigest()[:16]
        return cache_directory() / "remote" / key / self.name

    def fetch(self, path: Path, say: Callable[[str], None] = lambda line: None) -> None:
        """Copy it to `path`, all or nothing, unless that is done.

        Raises:
            InputError: it cannot be read.
            OutputError: there is no room for it.
        """
        if path.exists():
            return
        partial = path.with_name(f".{secrets.token_hex(4)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._errors(InputError, "read"):
                self._system.get_file(self._path, str(partial), callback=_progress(f"gets {self.url}", say))
            partial.replace(path)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def exists(self) -> bool:
        """Whether there is something.

        Raises:
            OutputError: that cannot be known.
        """
        with self._errors(OutputError, "reach"):
            return bool(self._system.exists(self._path))

    def store(self, path: Path, say: Callable[[str], None] = lambda line: None) -> None:
        """Copy a local file there and look whether all of it arrived.

        Raises:
            OutputError: it cannot be written; the local file stays.
        """
        size = path.stat().st_size
        try:
            with self._errors(OutputError, "write"):
                self._system.makedirs(self._system._parent(self._path), exist_ok=True)
                self._system.put_file(str(path), self._path, callback=_progress(f"puts {self.url}", say))
                self._system.invalidate_cache()
                found = self._system.info(self._path).get("size")
            if found not in (None, size):
                raise OutputError(f"expected {size} bytes at {self.url}, found {found}; copy it again")
        except OutputError as error:
            raise OutputError(f"{error}; the result is kept as {path}") from error

    @contextmanager
    def _errors(self, kind: type[BsstError], verb: str) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise MissingDependencyError(_package(error), "remote", self.url) from error
        except FileNotFoundError as error:
            raise kind(f"expected to {verb} {self.url}, found nothing there; check the name") from error
        except (BsstError, KeyboardInterrupt):
            raise
        except Exception as error:  # each protocol has its own
            raise kind(f"expected to {verb} {self.url}, could not: {_line(error)}; check address and rights") from error


def local_folder(url: str) -> Path:
    """A folder of the cache for results on their way to a place, the same one each time."""
    folder = cache_directory() / "remote" / hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"expected to write {folder}, could not: {error.strerror}; set BSST_CACHE_DIR") from error
    return folder


def _progress(what: str, say: Callable[[str], None]) -> Any:
    from fsspec.callbacks import Callback

    class Report(Callback):  # type: ignore[misc]
        next = time.monotonic() + SECONDS

        def call(self, *args: Any, **kwargs: Any) -> None:
            if time.monotonic() >= self.next:
                self.next = time.monotonic() + SECONDS
                share = f", {100 * self.value // self.size} %" if self.size else ""
                say(f"{what}: {self.value / 1e6:.0f} MB{share}")

    return Report()


def _package(error: ImportError) -> str:
    """What pip calls the package that an error misses."""
    found = re.search(r"[Ii]nstall\s+\"?([\w-]+)", str(error))
    return error.name or (found[1] if found else _line(error))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
