"""A plan that only has to be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from bsst.plan.archive import write_plan
from tests.bsst.plan.manifests import MEMBERS, manifest


@pytest.fixture
def plan_path(tmp_path: Path) -> Path:
    path = tmp_path / "edge.plan"
    write_plan(path, manifest(), MEMBERS)
    return path
