"""Segments restored by other processes join to the file of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from bsst.errors import PlanError, UsageError
from bsst.runtime import job
from bsst.runtime.job import Execution, deblur
from bsst.runtime.jobs.worker import Worker
from tests.media import Clip, Identity
from tests.runtime.jobs.test_resume import digests

ONE = Execution(threads=1, in_flight=1)


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "segment_length", lambda height, width: 5)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return Clip(times=tuple(range(0, 30 * 512, 512)), size=(48, 64)).write(tmp_path / "clip")


def test_two_processes_write_the_file_of_one(clip: Path, cpu_plan: Path) -> None:
    alone = deblur(clip, clip.with_name("alone.mp4"), cpu_plan, execution=ONE)
    both = Execution(threads=1, in_flight=1, devices=("cpu", "cpu"))
    result = deblur(clip, clip.with_name("both.mp4"), cpu_plan, execution=both)
    assert result.frames == 30
    assert digests(result.output) == digests(alone.output)


def test_a_worker_refuses_another_plan(cpu_plan: Path) -> None:
    with pytest.raises(PlanError, match="like the rest of the job"):
        Worker(cpu_plan, "0" * 64, threads=1)


def test_an_opened_plan_cannot_travel(clip: Path) -> None:
    with pytest.raises(UsageError, match="cannot travel"):
        deblur(clip, plan=Identity(), execution=Execution(devices=("cpu", "cpu")))
