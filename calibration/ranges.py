"""The file between `bsst calibrate` and `bsst export --int8`: ranges of activations and where they come from."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bsst.errors import ModelError, PlanError, UsageError
from bsst.files import atomic_file
from bsst.plan.manifest import Manifest
from bsst.plan.strict_json import canonical_json, from_json, parse_json

__all__ = ["ClipRecord", "Method", "Ranges", "read_ranges", "require_plan", "stages_key", "write_ranges"]

FORMAT = "bsst-ranges-1"
Method = Literal["minmax", "percentile", "entropy"]


@dataclass(frozen=True, kw_only=True)
class ClipRecord:
    """One clip that was calibrated on."""

    path: str
    """Where it was, absolute."""
    sha256: str
    """Digest of the file."""
    truth_path: str | None
    """Its sharp recording; None where there is none."""
    truth_sha256: str | None
    """Digest of that file."""


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """What `bsst calibrate` writes."""

    stages_sha256: str
    """`stages_key` of the plan that ran."""
    method: Method
    """How the range was chosen from the values seen."""
    percentile: float
    """Share in percent of the magnitudes inside the range; used by `percentile` alone."""
    windows: int
    """Windows taken from each clip, spread evenly."""
    clips: tuple[ClipRecord, ...]
    """In the order given."""
    tensors: dict[str, dict[str, tuple[float, float]]]
    """Stage -> activation -> (smallest, largest) value to represent."""
    format: str = FORMAT
    """What this file is."""


def stages_key(manifest: Manifest) -> str:
    """Hex SHA-256 over names and digests of all stages: equal for plans that compute the same, however labelled."""
    return hashlib.sha256(canonical_json({stage.name: stage.sha256 for stage in manifest.stages})).hexdigest()


def write_ranges(path: Path, ranges: Ranges) -> None:
    """Write the file whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_file(path) as file:
        file.write(canonical_json(dataclasses.asdict(ranges)))


def read_ranges(path: Path) -> Ranges:
    """Read and check a file of ranges.

    Raises:
        UsageError: there is no such file.
        ModelError: it holds something else, or a range that is empty or upside down.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"expected ranges at {path}, got {error.strerror}; write them with bsst calibrate") from error
    try:
        data: Any = parse_json(text, "ranges")
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise PlanError(f"no format {FORMAT}")
        ranges = from_json(Ranges, data, "ranges")
    except PlanError as error:
        reason = str(error).split(";")[0]
        raise ModelError(
            f"expected ranges written by bsst calibrate in {path}, got {reason}; write them again"
        ) from error
    if ranges.windows < 1:
        raise ModelError(f"{path}: expected 1 or more windows of each clip, got {ranges.windows}; write them again")
    for stage, tensors in ranges.tensors.items():
        for name, (low, high) in tensors.items():
            if not low <= high or max(-low, high) <= 0:
                raise ModelError(
                    f"{path}: expected a range around or beside 0 for {name} of stage {stage}, got {low} to {high}; "
                    "calibrate on clips that show something"
                )
    return ranges


def require_plan(ranges: Ranges, manifest: Manifest) -> None:
    """Refuse ranges that were measured on another plan.

    Raises:
        UsageError: the stages differ.
    """
    if ranges.stages_sha256 != (key := stages_key(manifest)):
        raise UsageError(
            f"expected ranges of this plan (stages {key[:12]}), got ranges of another one "
            f"({ranges.stages_sha256[:12]}); run bsst calibrate on the plan given with --from"
        )
