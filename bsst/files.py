"""Files that appear whole or not at all, and where caches lie."""

from __future__ import annotations

import errno
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import platformdirs

from bsst.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows, which never removes an open file
    fcntl = None  # type: ignore[assignment]

__all__ = ["atomic_file", "cache_directory", "sync_directory", "what_is_at"]


def what_is_at(path: Path) -> str:
    """What a name leads to, in words for messages: "a file", "a folder", "a pipe or device" or "nothing"."""
    if os.path.isfile(path):
        return "a file"
    return "a folder" if os.path.isdir(path) else "a pipe or device" if os.path.exists(path) else "nothing"


def cache_directory() -> Path:
    """`BSST_CACHE_DIR`, or the cache directory of this user (platformdirs)."""
    chosen = os.environ.get("BSST_CACHE_DIR")
    return Path(chosen) if chosen else platformdirs.user_cache_path("bsst")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write `path` so that a crash, a full disk or a second writer never leaves half of it under its name.

    What killed writers of the same file left beside it is removed.

    Yields:
        A binary file beside `path` under a temporary name, locked; it is synced and renamed when the block ends without
        error and removed otherwise.

    Raises:
        OutputError: the file cannot be written, or the name is that of a folder, a pipe or a device; root could
            rename over `/dev/null`.
    """
    if (found := what_is_at(path)) not in ("a file", "nothing"):
        raise OutputError(f"expected a file or nothing at {path}, got {found}; choose another name")
    _remove_leftovers(path)
    partial = path
    try:
        file = _locked_partial(path)
        partial = Path(file.name)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_directory(path.parent)
    except OSError as error:
        reason = "a full disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise OutputError(f"expected to write {path}, got {reason}; free space or choose another place") from error
    finally:
        if partial != path:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make names in a folder durable: without this a power cut may bring old ones back."""
    with suppress(OSError):  # some file systems refuse
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _locked_partial(path: Path) -> BinaryIO:
    """A new file beside `path` that `_remove_leftovers` of other processes spares."""
    while True:
        file = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial").open("xb")
        with suppress(OSError):  # of file systems without locks, where nothing is removed either
            _lock(file, wait=True)
        if os.path.exists(file.name):
            return file
        file.close()  # another process took it for a leftover before it was locked


def _remove_leftovers(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError), left.open("r+b") as file:
            _lock(file, wait=False)
            left.unlink()


def _lock(file: BinaryIO, *, wait: bool) -> None:
    """Lock until the file is closed, or its process ends in any way.

    Raises:
        OSError: it is locked, or cannot be.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
