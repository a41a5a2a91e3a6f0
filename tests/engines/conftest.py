"""Plans for tests of engines."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bsst.plan.archive import open_plan, write_plan


@pytest.fixture(scope="session")
def three_stages(cpu_plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of target `cpu` with one stage of each kind: a convolution kernel, an attention kernel, none."""
    plan = open_plan(cpu_plan)
    stages = tuple(plan.manifest.stage(name) for name in ("propagate_forward_1", "attend", "fuse"))
    path = tmp_path_factory.mktemp("plans") / "three.plan"
    members: dict[str, Path | bytes] = {stage.member: plan.member(stage.name) for stage in stages}
    config = {**plan.manifest.config, "branches": ["forward_1"]}
    write_plan(path, dataclasses.replace(plan.manifest, stages=stages, config=config), members)
    return path
