"""Several videos with one command: which, where to, what is skipped, and which status in the end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bsst import cli
from bsst.cli.many import Job, Outcome, plan_jobs, run_jobs, split_plan, worst_status
from bsst.cli.progress import Quiet
from bsst.cli.remote import Remote
from bsst.errors import UsageError
from bsst.runtime.jobs import opened
from bsst.runtime.jobs.output import default_output, default_preview
from bsst.runtime.network.network import DEFAULT_PLAN
from tests.media import Clip, Identity


class Tiles(Identity):
    """Stands in for the network of one shape."""

    loads = 0

    def __init__(self, *plan: object, **options: object) -> None:
        super().__init__(tile=plan[0].manifest.tile, flow_size=plan[0].manifest.flow_size)  # type: ignore[attr-defined]
        Tiles.loads += 1


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> type[Tiles]:
    monkeypatch.setattr(opened, "load_network", Tiles)
    monkeypatch.setattr(Tiles, "loads", 0)
    return Tiles


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.run, [str(argument) for argument in arguments])


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(jobs: list[Job], root: Path) -> list[tuple[str, str]]:
    return [(str(job.video.relative_to(root)), str(job.out.relative_to(root))) for job in jobs]


def test_folders_are_searched_for_videos_and_pictures_but_not_for_results(tmp_path: Path) -> None:
    tree(tmp_path, "a.mp4", "in/b10.MOV", "in/b2.avi", "in/b2.deblurred.mkv", "in/b2.preview.mkv", "in/notes.txt",
         "in/.hidden.mp4", "in/.bsst-x/1.nut", "in/deep/c.webm", "in/shots/1.png", "in/shots/take.mp4")  # fmt: skip
    jobs = plan_jobs(
        [tmp_path / "a.mp4", tmp_path / "in", tmp_path / "in" / "b2.avi"], tmp_path / "out", default_output
    )
    assert names(jobs, tmp_path) == [
        ("a.mp4", "out/a.mp4"),
        ("in/b2.avi", "out/b2.mkv"),
        ("in/b10.MOV", "out/b10.MOV"),
        ("in/deep/c.webm", "out/deep/c.webm"),
        ("in/shots", "out/shots"),
    ]
    beside = names(plan_jobs([tmp_path / "in"], None, default_output), tmp_path)
    assert beside[0] == ("in/b2.avi", "in/b2.deblurred.mkv")
    assert beside[-1] == ("in/shots", "in/shots.deblurred")
    previews = names(plan_jobs([tmp_path / "in"], tmp_path / "out", default_preview), tmp_path)
    assert [out for _, out in previews] == ["out/b2.preview.mkv", "out/b10.preview.MOV", "out/deep/c.preview.webm",
                                            "out/shots.preview.mp4"]  # fmt: skip


def test_patterns_name_results(tmp_path: Path) -> None:
    tree(tmp_path, "in/a.mov", "in/deep/v1.2 {x}.avi")
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "{folder}" / "{stem}_sharp{suffix}", default_output)
    assert [out for _, out in names(jobs, tmp_path)] == ["a_sharp.mov", "deep/v1.2 {x}_sharp.mkv"]


def test_one_name_for_two_and_results_over_sources_are_refused_before_any_work(tmp_path: Path) -> None:
    tree(tmp_path, "in/a.avi", "in/a.flv", "in/b.mp4")
    with pytest.raises(UsageError, match=r"a\.mkv for .*a\.avi and .*a\.flv; use \{suffix\} or \{folder\}"):
        plan_jobs([tmp_path / "in"], tmp_path / "out", default_output)
    with pytest.raises(UsageError, match="expected results apart from the sources"):
        plan_jobs([tmp_path / "in" / "b.mp4", tmp_path / "x.mp4"], tmp_path / "in", default_output)


def test_the_plan_is_named_anywhere_and_known_by_what_it_is_when_it_comes_first(tmp_path: Path) -> None:
    video, other = Path("a.mp4"), shutil.copy(DEFAULT_PLAN, tmp_path / "model.zip")
    assert split_plan([video, Path("x.plan")], None) == (Path("x.plan"), [video])
    assert split_plan([Path(other), video], None) == (Path(other), [video])
    assert split_plan([video], Path("any.name")) == (Path("any.name"), [video])
    assert split_plan([video, video], None) == (None, [video, video])


def test_several_videos_load_the_plan_once_skip_what_is_done_and_end_with_the_worst(
    tmp_path: Path, loads: type[Tiles]
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "c", "d"):
        Clip(times=(0, 512), size=(48, 64)).write(tmp_path / "in" / name)
    (tmp_path / "in" / "b.mp4").write_text("no video")
    result = invoke(tmp_path / "in", tmp_path / "missing.mov", "-o", tmp_path / "new" / "out")
    assert result.exit_code == 3
    assert loads.loads == 1
    lines = result.stderr.splitlines()[-5:]
    assert [line.removeprefix(f"{tmp_path}/").split(":")[0] for line in lines] == [
        "in/a.mp4", "in/b.mp4", "in/c.mp4", "in/d.mp4", "missing.mov"]  # fmt: skip
    assert lines[0].endswith("new/out/a.mp4, 2 frames")
    assert "error: expected" in lines[1]
    assert result.stderr.count("error: " + str(tmp_path / "in" / "b.mp4")) == 1
    (tmp_path / "in" / "b.mp4").unlink()
    again = invoke(tmp_path / "in", "-o", tmp_path / "new" / "out", "--log-json")
    assert again.exit_code == 0
    files = [json.loads(line) for line in again.stdout.splitlines()]
    assert [(event["event"], event["status"]) for event in files] == [("file", 0)] * 3
    assert all("is there, skipped" in event["message"] for event in files)
    assert invoke(tmp_path / "in", "-o", tmp_path / "new" / "out", "-y", "--quiet").exit_code == 0
    assert loads.loads == 2


def test_a_bug_with_one_video_does_not_keep_the_others_and_is_the_worst(tmp_path: Path) -> None:
    jobs = [Job(tmp_path / name, tmp_path / f"{name}.out") for name in "abc"]

    def restore(job: Job) -> object:
        if job.video.name == "b":
            raise ZeroDivisionError("x")
        raise UsageError("expected other options")

    outcomes = list(run_jobs(jobs, restore, Quiet, overwrite=False, remote=Remote()))  # type: ignore[arg-type]
    assert [outcome.status for outcome in outcomes] == [2, 1, 2]
    assert worst_status(outcomes) == 1
    eight = Outcome(job=jobs[0], status=8, line="")
    assert worst_status([eight]) == 8
    assert worst_status([eight, outcomes[0]]) == 2
    assert worst_status([]) == 0
