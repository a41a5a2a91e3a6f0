"""Segments restored by other processes, one after another or in shares, join to the file of one process."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from bsst.errors import BsstError, MissingDependencyError, OutputError, PlanError, UsageError
from bsst.runtime.job import deblur
from bsst.runtime.jobs import processes, resumable
from bsst.runtime.jobs.options import Execution, OutputFormat
from bsst.runtime.jobs.processes import restore_in_processes
from bsst.runtime.jobs.report import Observer
from bsst.runtime.jobs.run import Task
from bsst.runtime.jobs.segment import Segment, share_of
from bsst.runtime.jobs.work import WorkFolder
from bsst.runtime.jobs.worker import Worker, portable
from bsst.runtime.restore import Tiling
from bsst.runtime.video.encoder import EncoderSettings
from tests.media import Clip, Identity
from tests.runtime.jobs.test_resume import Steady, digests, work_folders

ONE = Execution(threads=1, in_flight=1)
TWO = Execution(threads=1, in_flight=1, devices=("cpu", "cpu"))


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "segment_length", lambda height, width: 5)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return Clip(times=tuple(range(0, 30 * 512, 512)), size=(48, 64)).write(tmp_path / "clip")


class Killer:
    """Kills workers when the job tells of progress."""

    def __init__(self, *, once: bool) -> None:
        self.killed, self.once = 0, once

    def __call__(self, progress: object) -> None:
        if not (self.killed and self.once):
            for process in multiprocessing.active_children()[: 1 if self.once else None]:
                process.kill()
                self.killed += 1


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_segment_only(clip: Path, cpu_plan: Path) -> None:
    alone = deblur(clip, clip.with_name("alone.mp4"), cpu_plan, execution=ONE)
    killer = Killer(once=True)
    observer = Observer(progress=killer)
    result = deblur(clip, clip.with_name("both.mp4"), cpu_plan, execution=TWO, observer=observer)
    assert (result.frames, killer.killed) == (30, 1)
    assert digests(result.output) == digests(alone.output)


@pytest.mark.slow
def test_workers_that_all_die_end_the_job_with_one_error_and_it_goes_on(
    clip: Path, cpu_plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "TRIES", 1)
    with pytest.raises(BsstError, match="1 processes died over them, of too little memory perhaps; use fewer workers"):
        deblur(clip, plan=cpu_plan, execution=TWO, observer=Observer(progress=Killer(once=False)))
    assert work_folders(clip.parent)
    lines = list[str]()
    assert deblur(clip, plan=cpu_plan, execution=ONE, observer=Observer(info=lines.append)).frames == 30
    assert any("goes on with an unfinished job" in line for line in lines)


def test_a_worker_that_cannot_load_the_plan_says_why(clip: Path, cpu_plan: Path) -> None:
    settings = EncoderSettings(
        codec="ffv1", pixel_format="yuv420p", encoding=None, tags=None, options={}, lossless=True
    )  # type: ignore[arg-type]
    segment = Segment(first=0, last=4, keep_from=0, keep_to=4)
    task = Task(
        video=clip,
        folder=clip.parent,
        run=(segment,),
        tile=(64, 128),
        tiling=Tiling(),
        settings=settings,
        hwaccel="none",
    )
    with pytest.raises(PlanError, match="like the rest of the job"):
        list(restore_in_processes([task], cpu_plan, "0" * 64, devices=("cpu",), threads=1, in_flight=1))


@pytest.mark.parametrize("error", [MissingDependencyError("ray", "ray", "this"), MemoryError(), ValueError("odd")])
def test_errors_of_workers_arrive_as_errors_of_ours(error: Exception) -> None:
    sent = portable(error)
    arrived = pickle.loads(pickle.dumps(sent))
    assert isinstance(arrived, BsstError)
    assert (str(arrived), arrived.exit_code) == (str(sent), sent.exit_code)
    assert sent.exit_code == {ValueError: 1, MemoryError: 6}.get(type(error), 5)


def test_a_worker_refuses_another_plan(cpu_plan: Path) -> None:
    with pytest.raises(PlanError, match="like the rest of the job"):
        Worker(cpu_plan, "0" * 64, threads=1)


def test_an_opened_plan_cannot_travel(clip: Path) -> None:
    with pytest.raises(UsageError, match="cannot travel"):
        deblur(clip, plan=Identity(), execution=Execution(devices=("cpu", "cpu")))


def test_shares_cover_every_segment_once() -> None:
    segments = [Segment(first=n, last=n + 1, keep_from=n, keep_to=n + 1) for n in range(11)]
    for count in (1, 3, 11, 13):
        shares = [share_of(segments, (number, count)) for number in range(1, count + 1)]
        assert [segment for share in shares for segment in share] == segments
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shares_are_joined_by_the_same_job_without_one(clip: Path) -> None:
    whole = deblur(clip, clip.with_name("whole.mp4"), Steady())
    out = clip.with_name("out.mp4")
    shares = [deblur(clip, out, Steady(), execution=Execution(share=(number, 3))) for number in (3, 1)]
    assert not out.exists()
    assert all(share.output.is_dir() and 0 < share.frames < 30 for share in shares)
    restorer = Steady()
    result = deblur(clip, out, restorer)
    assert restorer.clips <= 30 // 3  # clips of five frames with an overlap of two, two tiles each
    assert result.frames == 30
    assert digests(out) == digests(whole.output)
    assert not work_folders(clip.parent)


def test_shares_work_side_by_side_and_nothing_beside_a_whole_job(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    with WorkFolder(out, {"crf": 1}, share=(1, 2)), WorkFolder(out, {"crf": 1}, share=(2, 2)):
        for share in (None, (2, 2)):
            with pytest.raises(OutputError, match="another process works in"):
                WorkFolder(out, {"crf": 1}, share=share)
    with WorkFolder(out, {"crf": 1}):
        pass


@pytest.mark.parametrize("share", [(0, 3), (4, 3)])
def test_a_share_out_of_range_is_refused(clip: Path, share: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="share k of n"):
        deblur(clip, plan=Steady(), execution=Execution(share=share))


def test_work_of_another_version_is_refused_with_both_named(clip: Path) -> None:
    deblur(clip, plan=Steady(), execution=Execution(share=(1, 3)))
    (work,) = work_folders(clip.parent)
    stored = json.loads((work / "job.json").read_text())
    (work / "job.json").write_text(json.dumps({**stored, "version": "0.0.9"}))
    segments = sorted(path.name for path in work.glob("*.nut"))
    with pytest.raises(OutputError, match=r"a job with version \S+, found one with version 0.0.9; finish that one"):
        deblur(clip, plan=Steady())
    assert sorted(path.name for path in work.glob("*.nut")) == segments
    assert deblur(clip, plan=Steady(), execution=Execution(resume=False)).frames == 30


FULL = """
import resource, signal, sys
from pathlib import Path
from bsst.runtime import job
from bsst.runtime.jobs import resumable
from bsst.runtime.jobs.options import OutputFormat
from tests.runtime.jobs.test_resume import Steady
resumable.segment_length = lambda height, width: 5
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
class Filling(Steady):
    def restore(self, *arguments):
        if self.clips == 8:
            resource.setrlimit(resource.RLIMIT_FSIZE, (900, resource.RLIM_INFINITY))
        return super().restore(*arguments)
try:
    job.deblur(Path(sys.argv[1]), Path(sys.argv[2]), Filling(), output_format=OutputFormat(lossless=True))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_in_a_segment_is_one_error_and_keeps_the_segments_before(clip: Path) -> None:
    out, root = clip.with_name("out.mkv"), Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(clip), str(out)],
        cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("OutputError expected to write")
    assert done.stdout.count("\n") == 1
    (work,) = work_folders(clip.parent)
    assert list(work.glob("*.nut"))
    assert not list(work.glob("*.tmp"))
    whole = deblur(clip, clip.with_name("whole.mkv"), Steady(), output_format=OutputFormat(lossless=True))
    assert digests(deblur(clip, out, Steady(), output_format=OutputFormat(lossless=True)).output) == digests(
        whole.output
    )
