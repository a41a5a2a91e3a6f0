"""Files that appear whole or not at all, and where caches lie."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import platformdirs

from bsst.errors import OutputError

__all__ = ["atomic_file", "cache_directory", "what_is_at"]


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

    Yields:
        A binary file beside `path` under a temporary name; it is synced and renamed when the block ends without error
        and removed otherwise.

    Raises:
        OutputError: the file cannot be written, or the name is that of a folder, a pipe or a device; root could
            rename over `/dev/null`.
    """
    if (found := what_is_at(path)) not in ("a file", "nothing"):
        raise OutputError(f"expected a file or nothing at {path}, got {found}; choose another name")
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_directory(path.parent)
    except OSError as error:
        reason = "a full disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise OutputError(f"expected to write {path}, got {reason}; free space or choose another place") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    # Without this a power cut may bring the old name back; some file systems refuse to sync a directory.
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
