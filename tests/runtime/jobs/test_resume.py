"""A job that was interrupted, however, goes on and ends in the same file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from bsst.errors import OutputError
from bsst.runtime.job import deblur
from bsst.runtime.jobs import resumable
from bsst.runtime.jobs.options import Execution, OutputFormat
from bsst.runtime.jobs.report import Observer
from bsst.runtime.jobs.work import GONE, WorkFolder
from tests.media import Clip, Identity

TIMES = tuple(range(0, 60 * 512, 512))


class Steady(Identity):
    """A restorer that a resumed job recognises."""

    plan_key = "steady"

    def __init__(self, stop_after: int = 10**9, error: type[BaseException] = RuntimeError) -> None:
        super().__init__(in_flight=1)
        self.stop_after, self.error = stop_after, error

    def restore(self, clip: np.ndarray, backward: np.ndarray, forward: np.ndarray) -> np.ndarray:
        if self.clips == self.stop_after:
            raise self.error
        return super().restore(clip, backward, forward) * np.float32(0.9)


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "segment_length", lambda height, width: 8)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return Clip(audio="aac", times=TIMES, options={"bf": "3"}).write(tmp_path / "clip")


def digests(path: Path) -> list[object]:
    """What framemd5 prints, of all streams: times and content of each packet, and the decoded pictures."""
    with av.open(str(path)) as container:
        packets = [(p.stream.index, p.pts, p.dts, p.duration, hash(bytes(p))) for p in container.demux() if p.size]
    with av.open(str(path)) as container:
        return [packets, [(f.pts, hash(f.to_ndarray().tobytes())) for f in container.decode(video=0)]]


def work_folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".bsst-")]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("lossless", [False, True], ids=["crf", "lossless"])
def test_a_resumed_job_ends_in_the_same_file(clip: Path, suffix: str, lossless: bool) -> None:
    whole = deblur(clip, clip.with_name(f"whole{suffix}"), Steady(), output_format=OutputFormat(lossless=lossless))
    out = clip.with_name(f"out{suffix}")
    with pytest.raises(RuntimeError):
        deblur(clip, out, Steady(stop_after=60), output_format=OutputFormat(lossless=lossless))
    assert work_folders(clip.parent)
    assert not out.exists()
    restorer, lines = Steady(), list[str]()
    result = deblur(
        clip, out, restorer, output_format=OutputFormat(lossless=lossless), observer=Observer(info=lines.append)
    )
    assert any("goes on with an unfinished job" in line for line in lines)
    assert restorer.clips < 90
    assert result.frames == whole.frames == 60
    assert digests(out) == digests(whole.output)
    assert not work_folders(clip.parent)


def test_an_interrupted_job_says_how_to_go_on(clip: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match=r"interrupted; \d+ frames are kept in .* run the same command"):
        deblur(clip, plan=Steady(stop_after=60, error=KeyboardInterrupt))
    assert work_folders(clip.parent)


def test_a_torn_journal_and_damaged_segments_cost_what_they_name(clip: Path) -> None:
    whole = deblur(clip, clip.with_name("whole.mp4"), Steady())
    with pytest.raises(RuntimeError):
        deblur(clip, plan=Steady(stop_after=100))
    (work,) = work_folders(clip.parent)
    journal = work / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) >= 3
    journal.write_text("".join(lines[:-1]) + lines[-1][:40])
    first = work / f"{json.loads(lines[0])['segment']['keep_from']:09}.nut"
    first.write_bytes(first.read_bytes()[:-1] + b"?")
    assert digests(deblur(clip, plan=Steady()).output) == digests(whole.output)


def test_another_job_is_refused_with_both_named_and_replaced_when_told(clip: Path) -> None:
    with pytest.raises(RuntimeError):
        deblur(clip, plan=Steady(stop_after=60))
    with pytest.raises(OutputError, match="a job with crf 20, found one with crf 2"):
        deblur(clip, plan=Steady(), output_format=OutputFormat(crf=20))
    assert work_folders(clip.parent)
    assert (
        deblur(clip, plan=Steady(), output_format=OutputFormat(crf=20), execution=Execution(resume=False)).frames == 60
    )
    assert not work_folders(clip.parent)


def test_work_without_a_finished_segment_gives_way_to_another_job(clip: Path) -> None:
    work = clip.with_name("gone.mp4")
    with WorkFolder(work, {"crf": 1}):
        pass
    with WorkFolder(work, {"crf": 2}) as folder:
        assert json.loads((folder.path / "job.json").read_text()) == {"crf": 2}


def test_a_second_job_for_an_output_is_refused_before_it_loads_its_plan(clip: Path) -> None:
    out = clip.with_name("out.mp4")
    with WorkFolder(out, {}), pytest.raises(OutputError, match="another process works in .*; wait for it"):
        deblur(clip, out, clip.with_name("missing.plan"))


def test_two_jobs_with_one_output_are_refused(clip: Path) -> None:
    out = clip.with_name("out.mp4")
    with WorkFolder(out, {}), pytest.raises(OutputError, match="another process works in"):
        deblur(clip, out, Steady())


def test_work_is_kept_when_told(clip: Path) -> None:
    deblur(clip, plan=Steady(), execution=Execution(keep_work=True))
    (work,) = work_folders(clip.parent)
    assert len(list(work.glob("*.nut"))) >= 5


CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from bsst.runtime import job
from bsst.runtime.jobs import resumable
from tests.runtime.jobs.test_resume import Steady
class Slow(Steady):
    def restore(self, *arguments):
        time.sleep(0.004)
        return super().restore(*arguments)
resumable.segment_length = lambda height, width: 8
job.deblur(Path(sys.argv[1]), Path(sys.argv[2]), Slow())
"""
KILLS = int(os.environ.get("BSST_KILLS", "6"))


@pytest.mark.slow
def test_killed_at_random_moments_a_job_still_ends_in_the_same_file(clip: Path) -> None:
    whole = deblur(clip, clip.with_name("whole.mp4"), Steady())
    out, generator, killed = clip.with_name("out.mp4"), np.random.default_rng(), 0
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    while killed < KILLS:
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(clip), str(out)], cwd=root, env=environment)
        time.sleep(generator.uniform(0.3, 1.6))
        child.send_signal(signal.SIGKILL)
        if child.wait() == -signal.SIGKILL:
            killed += 1
        if out.exists():
            assert digests(out) == digests(whole.output)
            out.unlink()
    deblur(clip, out, Steady())
    assert digests(out) == digests(whole.output)


def test_what_a_kill_left_of_a_folder_that_was_thrown_away_is_removed_by_the_next_run(clip: Path) -> None:
    out = clip.with_name("out.mp4")
    with WorkFolder(out, {"crf": 1}) as folder:
        left = folder.path.with_name(f"{folder.path.name}-0a{GONE}")
        folder.path.rename(left)
    deblur(clip, out, Steady())
    assert not work_folders(clip.parent)
