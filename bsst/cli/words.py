"""What words of the command line of `bsst run` mean, where one option alone does not tell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bsst.errors import UsageError

if TYPE_CHECKING:
    from bsst.runtime.jobs.part import Part, Preview

__all__ = ["devices_of", "part_of", "share_of"]


def part_of(start: str | None, end: str | None, duration: str | None, preview: str | None) -> Part | Preview | None:
    """What of a video is restored; None for all.

    Raises:
        UsageError: words that are no times, or of both kinds.
    """
    from bsst.runtime.jobs.part import Part, Preview, parse_time

    timed = (start, end, duration) != (None, None, None)
    part = Part.of(start=start, end=end, duration=duration) if timed else None
    if preview is None:
        return part
    seconds = parse_time(preview)
    if seconds == 0:
        raise UsageError(f"expected a preview of some length, got {preview}; 5s shows enough as a rule")
    if timed:
        raise UsageError("expected a preview or a part, got both; leave --preview or --start, --end and --duration out")
    return Preview(seconds)


def devices_of(text: str, workers: int | None, ray: str) -> tuple[str, ...]:
    """`cuda:0,cuda:1` -> the names; `workers` CPUs.

    Raises:
        UsageError: something else, or more than one way to divide the work.
    """
    given = [name for name, value in (("--devices", text), ("--workers", workers), ("--ray", ray)) if value]
    if len(given) > 1:
        raise UsageError(f"expected one of --devices, --workers and --ray, got {' and '.join(given)}; choose one")
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    for name in names:
        if name != "cpu" and not re.fullmatch(r"cuda:\d+", name):
            raise UsageError(f"expected devices such as cuda:0,cuda:1 or cpu,cpu, got {name or 'an empty name'}")
    return names or ("cpu",) * (workers or 0)


def share_of(text: str | None) -> tuple[int, int] | None:
    """`2/5` -> the numbers.

    Raises:
        UsageError: something else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"expected --segment K/N with K from 1 to N, such as 2/5, got {text}")
    return int(match[1]), int(match[2])
