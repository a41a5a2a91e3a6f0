"""Plans taken apart and put together again, as damage or a forger would."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

__all__ = ["edit", "entries", "rewrite"]


def rewrite(path: Path, entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=compression)


def entries(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def edit(path: Path, change: Any, *, key: bool) -> None:
    """Rewrite the manifest of a plan; with `key` as a forger would, its content key recomputed."""
    parts = dict(entries(path))
    data = json.loads(parts["manifest.json"])
    change(data)
    if key:
        text = json.dumps(data | {"content_key": ""}, sort_keys=True, separators=(",", ":"))
        data["content_key"] = hashlib.sha256(text.encode()).hexdigest()
    parts["manifest.json"] = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    rewrite(path, list(parts.items()))
