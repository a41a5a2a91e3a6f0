"""A manifest as `manifest.json`: canonical, and checked field by field when it is read."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from bsst.errors import PlanError
from bsst.plan.manifest import FORMAT_VERSION, Manifest
from bsst.plan.rules import check_agreement, check_values
from bsst.plan.strict_json import canonical_json, from_json, parse_json

__all__ = ["content_key", "manifest_from_json", "manifest_to_json"]


def content_key(manifest: Manifest) -> str:
    """Hex SHA-256 over the canonical JSON of `manifest` without its `content_key`."""
    return hashlib.sha256(canonical_json(_values(manifest) | {"content_key": ""})).hexdigest()


def manifest_to_json(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`: canonical, so equal manifests give equal plans.

    Raises:
        PlanError: a value breaks a rule that `manifest_from_json` would refuse.
    """
    check_values(manifest)
    check_agreement(manifest)
    return canonical_json(_values(manifest))


def manifest_from_json(text: bytes, where: str) -> Manifest:
    """Parse and check `manifest.json`.

    Raises:
        PlanError: not JSON, another format version, a missing, unknown, mistyped or impossible field, or a content
            key that does not fit the rest.
    """
    data = parse_json(text, where)
    # The version comes first: a newer format may differ in every other field.
    version = data.get("format_version") if isinstance(data, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        raise PlanError(
            f"{where}.format_version: expected {FORMAT_VERSION}, got {repr(version)[:80]}; "
            "run the plan with the version of bsst that wrote it, or export it again"
        )
    manifest = from_json(Manifest, {"float32": [], "shapes": [], "licence": ""} | data, where)
    check_values(manifest)
    if manifest.content_key != content_key(manifest):
        raise PlanError(
            f"{where}.content_key: expected {content_key(manifest)} for these fields, got {manifest.content_key}; "
            "the manifest was edited or damaged: copy or export the plan again"
        )
    for part in (manifest, *map(manifest.shaped, manifest.shapes)):
        check_agreement(part)
    return manifest


def _values(manifest: Manifest) -> dict[str, Any]:
    """Fields as they are written; optional ones are left out where empty, as plans did before they existed."""
    values = dataclasses.asdict(manifest)
    return {name: value for name, value in values.items() if value or name not in ("float32", "shapes", "licence")}
