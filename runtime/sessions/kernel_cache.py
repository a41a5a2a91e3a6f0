"""Kernels that TensorRT-RTX compiles when an engine first meets a GPU, kept between runs.

One file per engine and GPU. The library checks a file against its own version, the GPU and the driver and refuses
others; here it is only made sure that two processes never write or read half of one.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from bsst.errors import OutputError
from bsst.files import atomic_file, cache_directory

__all__ = ["RuntimeCache", "runtime_cache"]

_LOG = logging.getLogger("bsst.runtime")


@dataclass(frozen=True)
class RuntimeCache:
    """Compiled kernels of one engine; losing them costs only time, so failures are logged and not raised."""

    path: Path
    """File; beside it `<name>.lock`."""

    def load(self) -> bytes | None:
        """What was kept, or None."""
        try:
            with self._lock():
                return self.path.read_bytes() if self.path.exists() else None
        except OSError as error:
            _LOG.warning("compiled kernels are not read: %s", error)
            return None

    def save(self, data: bytes) -> None:
        """Replace what was kept, unless it is the same."""
        try:
            with self._lock():
                if not self.path.exists() or self.path.read_bytes() != data:
                    with atomic_file(self.path) as file:
                        file.write(data)
        except (OSError, OutputError) as error:
            _LOG.warning("compiled kernels are not kept: %s", error)

    def _lock(self) -> FileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_name(f"{self.path.name}.lock"))


def runtime_cache(engine_sha256: str, *, library: str, gpu: str) -> RuntimeCache:
    """Place in the cache directory of this user.

    Args:
        engine_sha256: digest of the serialized engine.
        library: name and full version of the library.
        gpu: product name and compute capability.
    """
    key = hashlib.sha256(f"{engine_sha256}\n{library}\n{gpu}".encode()).hexdigest()
    return RuntimeCache(cache_directory() / "rtx" / f"{key}.kernels")
