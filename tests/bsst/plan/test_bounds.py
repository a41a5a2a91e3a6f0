"""Manifests that agree with their own hashes and yet are impossible: refused before anything is planned."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from bsst.errors import PlanError
from bsst.plan.manifest import Manifest
from bsst.plan.manifest_json import content_key, manifest_from_json
from bsst.plan.strict_json import canonical_json
from tests.bsst.plan.manifests import manifest


def forged(changed: Manifest) -> bytes:
    stages = tuple(dataclasses.replace(stage, sha256="0" * 64, size=1) for stage in changed.stages)
    changed = dataclasses.replace(changed, stages=stages)
    values = dataclasses.asdict(changed) | {"content_key": content_key(changed)}
    return canonical_json({name: value for name, value in values.items() if name != "float32" or value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 2**31}, "frames: expected 1 to 1024"),
        ({"tile": (4, 4), "tile_overlap": 0}, "tile: expected the size of stage encode's frames"),
        ({"flow_size": (2**20, 64)}, "flow_size: expected sides"),
        ({"label": "\x1b[2J"}, "label: expected printable text"),
        ({"label": "x" * 501}, "label: expected a short printable line"),
        ({"window_overlap": 10**400}, "expected an integer|not readable|integer string"),
    ],
)
def test_a_forged_manifest_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message) as error:
        manifest_from_json(forged(manifest(**changes)), "manifest")
    assert str(error.value).isprintable()
