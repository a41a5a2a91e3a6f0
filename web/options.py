"""What a caller may ask of a job, checked field by field, and what the server grants at most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from bsst.errors import UsageError
from bsst.plan.archive import open_plan
from bsst.runtime.jobs.part import Part
from bsst.runtime.video.quality import DEFAULT_CRF
from bsst.runtime.video.writer import CONTAINERS

__all__ = ["PACKAGED", "JobOptions", "Limits", "plans_by_name"]

PACKAGED = "packaged"
"""Name of the plan that the package holds."""
GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the server grants."""

    upload_bytes: int = 20 * GB
    """Size of one source."""
    disk_bytes: int = 200 * GB
    """Size of all jobs together, checked while sources arrive and before a job starts."""
    jobs: int = 100
    """Jobs kept, finished ones included."""
    idle_seconds: float = 60
    """A sender that is silent for so long is cut off."""


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What one job does; field names are those of the service."""

    plan: str = PACKAGED
    """One of the names that the server was started with."""
    crf: int = DEFAULT_CRF
    """Quality of the encoder, 0 (best) to 51."""
    lossless: bool = False
    """Keep the restored frames exactly."""
    format: str = "source"
    """Suffix of the result without its dot; "source" for the source's own where it can be written."""
    start: str = ""
    """Restore from here on, as of `--start`; "" for the beginning."""
    end: str = ""
    """Restore up to here; "" for the end."""
    preview: bool = False
    """Restore the blurriest second first, beside its source."""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, plans: Mapping[str, Path | None]) -> Self:
        """Options from a JSON object or from a query, whose values are all text.

        Raises:
            UsageError: an unknown name, or a value of another type or outside its range.
        """
        kinds = {field.name: type(field.default) for field in fields(cls)}
        unknown = sorted(set(values) - set(kinds))
        if unknown:
            raise UsageError(f"expected options among {', '.join(kinds)}, got {', '.join(unknown)[:80]}; leave it out")
        options = cls(**{name: _parsed(name, value, kinds[name]) for name, value in values.items()})
        if options.plan not in plans:
            raise UsageError(f"expected a plan among {', '.join(plans)}, got {options.plan[:80]}; choose one of these")
        if not 0 <= options.crf <= 51:
            raise UsageError(f"expected a crf of 0 to 51, got {options.crf}; 1 is close to lossless, larger is smaller")
        formats = ["source", *(suffix[1:] for suffix in CONTAINERS)]
        if options.format not in formats:
            raise UsageError(f"expected a format among {', '.join(formats)}, got {options.format[:20]}; choose one")
        if options.part() is not None and options.preview:
            raise UsageError("expected a preview of a whole video, got start or end as well; leave one out")
        return options

    def part(self) -> Part | None:
        """What of the video is restored; None for all.

        Raises:
            UsageError: no times, or times that leave nothing.
        """
        return Part.of(start=self.start or None, end=self.end or None) if self.start or self.end else None

    def to_json(self) -> dict[str, Any]:
        """As `from_mapping` takes it."""
        return asdict(self)


def plans_by_name(paths: Iterable[Path]) -> dict[str, Path | None]:
    """The packaged plan, None, and each file under its name without suffix, checked.

    Raises:
        UsageError: two have the same name.
        PlanError: one cannot be used.
    """
    plans: dict[str, Path | None] = {PACKAGED: None}
    for path in paths:
        if path.stem in plans:
            raise UsageError(f"expected plans of different names, got {path.stem} twice; rename one file")
        open_plan(path)
        plans[path.stem] = path.absolute()
    return plans


def _parsed(name: str, value: Any, kind: type[Any]) -> Any:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
    try:
        if isinstance(value, str) and kind is not str:
            value = {"true": True, "false": False}[value] if kind is bool else kind(value)
        if kind is str and type(value) in (int, float):  # times may be numbers
            value = str(value)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or (kind is float and not math.isfinite(value)):
            raise ValueError
    except (ValueError, KeyError, OverflowError):
        raise UsageError(f"expected {words} for {name}, got {str(value)[:40]!r}; correct it") from None
    return value
