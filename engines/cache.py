"""Engines built before, by content: nothing is trusted for its file name, age or mere presence.

An entry is two files, `<key>.engine` and `<key>.json` (written last: key, size, SHA-256, build facts). An entry that
does not verify is a miss and is overwritten. A lock per key makes concurrent builders of the same engine take turns,
so the second finds what the first one built; the system releases the lock of a process that dies.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from bsst.errors import OutputError, PlanError
from bsst.files import atomic_file
from bsst.plan.strict_json import canonical_json, from_json, parse_json

__all__ = ["CacheEntry", "EngineCache"]

_LOG = logging.getLogger("bsst.engines")


@dataclass(frozen=True, kw_only=True)
class _Record:
    key: str
    size: int
    sha256: str
    facts: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """Place of one engine; valid while its lock is held."""

    directory: Path
    """Directory of the cache."""
    key: str
    """Hex digest of everything that decides the engine."""

    def load(self) -> tuple[bytes, Mapping[str, float]] | None:
        """Engine and facts, or None where there is no entry that verifies."""
        try:
            record = from_json(_Record, parse_json(self._path("json").read_bytes(), self.key), self.key)
            data = self._path("engine").read_bytes()
        except FileNotFoundError:
            return None
        except (OSError, PlanError) as error:
            _LOG.warning("cache entry is not used: %s", error)
            return None
        if (record.key, record.size, record.sha256) != (self.key, len(data), hashlib.sha256(data).hexdigest()):
            _LOG.warning("cache entry %s is not used: it does not hold the bytes that were stored", self.key)
            return None
        return data, record.facts

    def store(self, data: bytes, facts: Mapping[str, float]) -> None:
        """Keep an engine. A cache that cannot be written costs only time, so it is logged and not raised."""
        record = {"key": self.key, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "facts": dict(facts)}
        try:
            with atomic_file(self._path("engine")) as file:
                file.write(data)
            with atomic_file(self._path("json")) as file:
                file.write(canonical_json(record))
        except OutputError as error:
            _LOG.warning("the engine is not cached: %s", error)

    def _path(self, extension: str) -> Path:
        return self.directory / f"{self.key}.{extension}"


@dataclass(frozen=True, kw_only=True)
class EngineCache:
    """Engines in one directory, shared by processes."""

    directory: Path
    """Created when first used."""

    @contextmanager
    def locked(self, key: str) -> Iterator[CacheEntry]:
        """Entry of `key`, alone; waits for another process that holds it.

        Raises:
            OutputError: the directory cannot be created or locked.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.directory / f"{key}.lock")
            lock.acquire()
        except OSError as error:
            raise OutputError(
                f"expected a writable engine cache in {self.directory}, got {error}; set BSST_CACHE_DIR"
            ) from error
        try:
            yield CacheEntry(directory=self.directory, key=key)
        finally:
            lock.release()
