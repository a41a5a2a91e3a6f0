"""The licence of weights travels with a plan; plans from before the field load, and stay as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bsst.engines.inspect_plan import plan_table
from bsst.errors import PlanError
from bsst.plan.archive import open_plan, write_plan
from bsst.runtime.network.network import DEFAULT_PLAN
from tests.bsst.plan.archives import edit
from tests.bsst.plan.manifests import MEMBERS, manifest


def licence_line(path: Path) -> str:
    lines = plan_table(open_plan(path)).splitlines()
    return next(line for line in lines if line.startswith("licence")).removeprefix("licence").strip()


def test_a_licence_is_written_read_and_shown(tmp_path: Path) -> None:
    write_plan(tmp_path / "a.plan", manifest(licence="CC BY-NC 4.0"), MEMBERS)
    assert open_plan(tmp_path / "a.plan").manifest.licence == "CC BY-NC 4.0"
    shutil.copy(DEFAULT_PLAN, tmp_path / "b.plan")
    edit(tmp_path / "b.plan", lambda data: data.update(licence="CC BY-NC 4.0"), key=True)
    assert licence_line(tmp_path / "b.plan") == "CC BY-NC 4.0"


def test_a_plan_without_one_is_written_without_the_field_and_says_so(tmp_path: Path) -> None:
    fields: list[str] = []
    write_plan(tmp_path / "a.plan", manifest(), MEMBERS)
    edit(tmp_path / "a.plan", fields.extend, key=True)
    assert "label" in fields
    assert "licence" not in fields
    shutil.copy(DEFAULT_PLAN, tmp_path / "b.plan")
    edit(tmp_path / "b.plan", lambda data: data.pop("licence", None), key=True)
    assert licence_line(tmp_path / "b.plan") == "not stated by the weights; ask whoever trained them"


@pytest.mark.parametrize("text", ["MIT\x1b[2J", "a\nb", "x" * 501], ids=["control", "two lines", "endless"])
def test_a_licence_that_is_no_short_line_is_refused(tmp_path: Path, text: str) -> None:
    write_plan(tmp_path / "a.plan", manifest(), MEMBERS)
    edit(tmp_path / "a.plan", lambda data: data.update(licence=text), key=True)
    with pytest.raises(PlanError, match=r"licence: expected (a short )?printable"):
        open_plan(tmp_path / "a.plan")
