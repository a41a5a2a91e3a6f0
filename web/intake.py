"""Sources on their way to disk, never whole in memory: what a sender announces is a hint, what arrives is counted."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from bsst.errors import BsstError, OutputError, UsageError
from bsst.web.options import Limits
from bsst.web.store import JobStore

__all__ = ["StalledError", "TooLargeError", "clean_name", "receive"]

SPARE_BYTES = 500_000_000
"""Left free on the disk, whatever the limits say."""
CHECK_BYTES = 64_000_000
"""The disk is looked at again after so much."""


class TooLargeError(BsstError):
    """A source, or all of them, beyond a limit of the server."""


class StalledError(BsstError):
    """A sender that fell silent or left."""


def clean_name(name: str) -> str:
    """The last part of a name from anywhere, without what a terminal or a file system takes amiss.

    Raises:
        UsageError: nothing is left.
    """
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(letter for letter in last if letter.isprintable() and letter not in '<>:"|?*').strip(" .")
    if not kept:
        raise UsageError(f"expected the name of a video such as holiday.mp4, got {name[:40]!r}; pass one")
    stem, suffix = os.path.splitext(kept)
    return stem[:120] + suffix[:12]


async def receive(
    chunks: AsyncIterator[bytes], room: Path, name: str, *, announced: int | None, store: JobStore, limits: Limits
) -> Path:
    """Write a source into a room, as `source` with the suffix of its name.

    Args:
        chunks: of its bytes.
        room: an empty folder.
        name: from `clean_name`; only a harmless suffix of it is used.
        announced: bytes that the sender says will come.
        store: of all jobs.
        limits: of the server.

    Raises:
        TooLargeError: announced or received, it is over a limit.
        StalledError: nothing came for `limits.idle_seconds`, or less came than was announced.
        OutputError: the disk is full or fails.
        UsageError: nothing came at all.
    """
    if announced is not None:
        await asyncio.to_thread(_require_room, announced, 0, room, store, limits)
    suffix = Path(name).suffix.lower()
    path = room / ("source" + (suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""))
    partial, size, looked = room / "arriving", 0, 0
    try:
        with partial.open("xb") as file:
            while (chunk := await _next(chunks, limits.idle_seconds)) is not None:
                size += len(chunk)
                if size > limits.upload_bytes or size - looked > CHECK_BYTES:
                    await asyncio.to_thread(_require_room, size, looked, room, store, limits)
                    looked = size
                await asyncio.to_thread(file.write, chunk)
            if size == 0:
                raise UsageError("expected a video, got no bytes; send the file as the body of the request")
            if announced is not None and size < announced:
                raise StalledError(f"expected {announced} bytes as announced, got {size}; send it again")
            await asyncio.to_thread(_sync, file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"expected to keep the video, could not: {error.strerror or error}; free space") from error
    return path


def _require_room(size: int, written: int, room: Path, store: JobStore, limits: Limits) -> None:
    """Of a source of `size` bytes so far or at least, `written` are on disk."""
    if size > limits.upload_bytes:
        raise TooLargeError(f"expected at most {limits.upload_bytes} bytes, got {size} or more; use a smaller file")
    if store.used_bytes() + size - written > limits.disk_bytes:
        raise TooLargeError(f"expected at most {limits.disk_bytes} bytes of all jobs, got more; remove finished jobs")
    if size - written > shutil.disk_usage(room).free - SPARE_BYTES:
        raise TooLargeError("expected room on the server's disk, it is nearly full; free space or remove jobs")


async def _next(chunks: AsyncIterator[bytes], seconds: float) -> bytes | None:
    try:
        return await asyncio.wait_for(anext(chunks, None), seconds)
    except TimeoutError as error:
        raise StalledError(f"expected more of the video, nothing came for {seconds:g} s; send it again") from error


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)
