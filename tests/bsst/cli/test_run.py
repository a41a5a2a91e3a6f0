"""The command line: what it prints where, and with which exit status."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bsst import cli
from bsst.runtime.jobs import opened
from bsst.runtime.network.network import DEFAULT_PLAN
from bsst.runtime.video.sound import AUDIO_CHOICES
from tests.media import Clip, Identity, decode
from tests.runtime.video.test_reader import WITHOUT_GPU

ROOT = Path(__file__).parents[3]
LINES = ["nothing runs", "decoder h264, encoder libx264"]
"""What an identity restorer and the CPU print at the start."""


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return Clip(audio="aac").write(tmp_path / "clip")


class Loads:
    """Stands in for the network loader; remembers the calls."""

    def __init__(self, restorer: Identity) -> None:
        self.restorer = restorer
        self.calls: list[tuple[Path | None, int]] = []

    def __call__(self, path: Path | None = None, *, threads: int = 0, **options: object) -> Identity:
        self.calls.append((path, threads))
        return self.restorer


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    loads = Loads(Identity())
    monkeypatch.setattr(opened, "load_network", loads)
    monkeypatch.setattr(opened, "_fitting", lambda plan, *video: plan and Path(plan))  # reads the plan
    monkeypatch.setattr(opened, "_clips", lambda *video: 4)
    return loads


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.run, [str(argument) for argument in arguments])


def test_a_video_alone_uses_the_packaged_plan(clip: Path, loads: Loads) -> None:
    result = invoke(clip, "--threads", 3)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines()[:2] == LINES
    assert "clip.deblurred.mp4: 12 frames" in result.stderr
    assert loads.calls == [(None, 3)]
    assert len(decode(clip.with_name("clip.deblurred.mp4")).seconds) == 12


def test_plan_and_video_options_and_the_group_command(clip: Path, loads: Loads) -> None:
    out = clip.with_name("out.mkv")
    options = ["run", "my.plan", clip, "-o", out, "--lossless", "--window-overlap", 1, "--tile-overlap", 8,
               "--no-scene-cuts", "--quiet"]  # fmt: skip
    result = CliRunner().invoke(cli.main, [str(option) for option in options])
    assert (result.exit_code, result.output) == (0, "")
    assert loads.calls == [(Path("my.plan"), 0)]
    assert decode(out).stream["codec"] == "ffv1"


def test_a_preview_of_a_part_is_refused(clip: Path, loads: Loads) -> None:
    result = invoke(clip, "--preview", "5s", "--start", "1")
    assert result.exit_code == 2
    assert "expected a preview or a part, got both" in result.output


def test_a_preview_is_opened_only_when_asked_for(clip: Path, loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[str]()
    monkeypatch.setattr("click.launch", opened.append)
    result = invoke(clip, "--preview", "0.2s")
    assert (result.exit_code, opened) == (0, [])
    assert "clip.preview.mp4: 5 frames" in result.stderr
    assert invoke(clip, "--preview", "0.2s", "-y", "--open").exit_code == 0
    assert opened == [str(clip.with_name("clip.preview.mp4"))]
    for options in (["--preview", "0"], ["--preview", "1", "--start", "0:01"], ["--open", "-o", "-"]):
        refused = invoke(clip, *options)
        assert refused.exit_code == 2
        assert refused.stderr.count("\n") == 1


def test_json_lines_can_be_parsed_and_end_with_the_result(clip: Path, loads: Loads) -> None:
    result = invoke(clip, "--log-json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert {event["event"] for event in events} == {"info", "progress", "result"}
    assert [event["message"] for event in events[:2]] == LINES
    assert events[-1]["frames"] == 12
    assert events[-1]["output"] == str(clip.with_name("clip.deblurred.mp4"))
    failed = invoke(clip, "--log-json")
    assert json.loads(failed.stdout) == {
        "event": "error",
        "type": "OutputError",
        "message": failed.stderr.removeprefix("error: ").strip(),
    }


def test_expected_errors_are_one_line_with_their_status(clip: Path, tmp_path: Path, loads: Loads) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "clip.deblurred.mp4").touch()
    cases = [
        (2, [clip, "-o", clip]),
        (2, [clip, clip.with_name("text.mp4"), "-o", "-"]),
        (2, [clip, "-o", tmp_path / "x.mp4", "--tile-overlap", 7]),
        (2, [clip, "-o", tmp_path / "x.mp4", "--window-overlap", 50]),
        (2, [clip, "-o", tmp_path / "x.mp4", "--crf", 99]),
        (3, [tmp_path / "missing.mp4"]),
        (3, [tmp_path / "text.mp4"]),
        (4, [clip]),
        (4, [clip, "-o", tmp_path / "nowhere" / "x.mp4"]),
    ]
    for status, arguments in cases:
        result = invoke(*arguments, "--quiet")
        assert result.exit_code == status, result.output
        assert result.stderr.startswith("error: ")
        assert len(result.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.deblurred.mp4", "clip.mp4", "text.mp4"]


@WITHOUT_GPU
def test_a_gpu_that_is_demanded_and_absent_is_one_line_and_writes_nothing(clip: Path, loads: Loads) -> None:
    result = invoke(clip, "--hwaccel", "cuda")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert result.stderr.startswith("error: expected NVDEC to decode ")
    assert [path.name for path in clip.parent.iterdir()] == ["clip.mp4"]
    loads.restorer.on_gpu = True
    result = invoke(clip)
    assert result.exit_code == 0
    assert "h264 in software (not NVDEC: " in result.stderr
    assert "libx264 in software (not NVENC: Cannot load libcuda.so.1)" in result.stderr


def test_a_missing_plan_has_its_own_status(clip: Path) -> None:
    result = invoke("missing.plan", clip)
    assert result.exit_code == 5
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_unexpected_errors_are_one_line_and_a_traceback_on_request(clip: Path, loads: Loads) -> None:
    def fail(clip: np.ndarray, backward: np.ndarray, forward: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("two\nlines")

    loads.restorer.restore = fail  # type: ignore[method-assign]
    result = invoke(clip, "--quiet")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ZeroDivisionError: two lines; ")
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" in invoke(clip, "--debug").stderr


def test_repaired_frames_are_counted_and_change_the_status(clip: Path, loads: Loads) -> None:
    loads.restorer.restore = lambda clip, backward, forward: clip * np.nan  # type: ignore[method-assign]
    result = invoke(clip)
    assert result.exit_code == 8
    assert "warning: 12 of 12 frames could not be restored and are unchanged: 0-11\n" in result.stderr
    assert len(decode(clip.with_name("clip.deblurred.mp4")).seconds) == 12


def test_a_dry_run_tells_frames_windows_tiles_memory_and_time_and_writes_nothing(clip: Path, cpu_plan: Path) -> None:
    result = invoke(cpu_plan, clip, "--dry-run", "--in-flight", 1)
    assert (result.exit_code, result.stderr) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert rows["backend"] == "plan of target cpu runs on ONNX Runtime, CPUExecutionProvider"
    assert rows["frames"] == "12"
    assert rows["windows"].startswith("4, of 4 frames")
    assert rows["tiles"].startswith("2 of 64x128")
    assert "1 in flight" in rows["planned"]
    assert rows["time"].startswith("about ")
    assert [path.name for path in clip.parent.iterdir()] == ["clip.mp4"]


def test_sizes_are_read_and_nonsense_is_refused(clip: Path) -> None:
    from bsst.cli.common import parse_bytes

    assert [parse_bytes(text) for text in ("800MB", "2g", "1.5 GiB", "7")] == [800_000_000, 2 * 10**9, 3 * 2**29, 7]
    assert invoke(clip, "--max-memory", "plenty").exit_code == 2
    assert invoke(clip, "--in-flight", 0).exit_code == 2


def test_a_trace_shows_decoding_and_encoding(clip: Path, loads: Loads) -> None:
    path = clip.with_name("trace.json")
    assert invoke(clip, "--trace", path, "--in-flight", 1).exit_code == 0
    events = json.loads(path.read_text())["traceEvents"]
    tracks = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    counts = {name: sum(e["ph"] == "X" and e["tid"] == tid for e in events) for tid, name in tracks.items()}
    assert counts == {"decode": 12, "encode": 12}  # the survey before it knows where the video ends


def test_a_trace_that_could_not_be_written_is_refused_before_any_work(clip: Path, loads: Loads) -> None:
    result = invoke(clip, "--trace", clip.parent / "nowhere" / "trace.json")
    assert result.exit_code == 4
    assert "expected a folder" in result.stderr
    assert not loads.calls


def test_help_shows_examples_and_every_status() -> None:
    for arguments in (["--help"], ["-h"]):
        result = CliRunner().invoke(cli.run, arguments)
        assert result.exit_code == 0
        assert "holiday.deblurred.mp4" in result.output
        for status in (0, 1, 2, 3, 4, 5, 6, 7, 8, 130):
            assert f"\n    {status:<4} " in result.output
    assert CliRunner().invoke(cli.run, []).exit_code == 2


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # background shells start their children with it ignored
import bsst.runtime.jobs.opened
from bsst.runtime.network.network import DEFAULT_PLAN
from bsst.runtime.video.sound import AUDIO_CHOICES
from bsst import cli
from bsst.plan.archive import write_plan
from tests.bsst.plan.manifests import MEMBERS, manifest
from tests.media import Identity
class Slow(Identity):
    def restore(self, *arrays):
        print("working", flush=True)
        time.sleep(0.1)
        return super().restore(*arrays)
bsst.runtime.jobs.opened.load_network = lambda path, **options: Slow()
cli.run(sys.argv[1:])
"""


@pytest.mark.parametrize("arguments", [["a.plan", ""], [""], ["clip.mp4", "-o", ""]])
def test_an_empty_name_is_refused_and_not_taken_for_the_present_folder(
    clip: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(clip.parent)
    result = CliRunner().invoke(cli.run, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: expected ")
    assert "got an empty one" in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in clip.parent.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(clip: Path, sent: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SLOW, str(clip)], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "working\n"
        child.send_signal(sent)
        _, stderr = child.communicate(timeout=60)
    assert child.returncode == 130
    assert stderr.splitlines() == [*LINES, "error: interrupted; nothing was written"]
    assert [path.name for path in clip.parent.iterdir()] == ["clip.mp4"]


def test_the_bar_draws_and_lines_are_timed(capsys: pytest.CaptureFixture[str], clip: Path, loads: Loads) -> None:
    from bsst.cli.progress import Bar, Lines
    from bsst.runtime.job import deblur
    from bsst.runtime.jobs.report import Observer, Progress

    state = Progress(frames=5, work=5.5, total=12, fps=0.5, eta_seconds=83.0)
    lines = Lines(seconds=0)
    lines.progress(state)
    assert capsys.readouterr().err == "5 of 12 frames, 0.50 fps, 1:23 left\n"
    patient = Lines(seconds=10)
    patient.progress(state)
    assert capsys.readouterr().err == ""
    with Bar() as bar:
        done = deblur(clip, observer=Observer(progress=bar.progress, warning=bar.warning))
        bar.result(done, str(done.output))
    assert "12 frames in" in capsys.readouterr().err


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, bsst.cli; print(sorted({'onnx', 'onnxruntime', 'rich', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_inspect_shows_a_plan_in_words_and_as_json(tmp_path: Path) -> None:
    shown = CliRunner().invoke(cli.inspect, [])
    assert shown.exit_code == 0
    assert "network        edge: " in shown.stdout
    assert "256x256 pixels (height x width), 32 shared" in shown.stdout
    whole = json.loads(CliRunner().invoke(cli.main, ["inspect", "--json", str(DEFAULT_PLAN)]).stdout)
    assert whole["manifest"]["frames"] == 12
    path = tmp_path / "edge.plan"
    path.write_bytes(DEFAULT_PLAN.read_bytes()[:-100])
    damaged = CliRunner().invoke(cli.inspect, [str(path)])
    assert (damaged.exit_code, damaged.stdout) == (5, "")
    assert damaged.stderr.startswith("error: ")


def test_doctor_reports_a_machine_without_gpu_and_succeeds() -> None:
    report = CliRunner().invoke(cli.doctor, [])
    assert report.exit_code == 0
    assert "CPUExecutionProvider" in report.stdout


def test_a_trace_that_cannot_be_written_costs_a_warning_and_not_the_job(clip: Path, loads: Loads) -> None:
    folder = clip.parent / "traces"
    folder.mkdir()
    loads.restorer.restore = lambda clip, *flows: [clip, shutil.rmtree(folder, ignore_errors=True)][0]  # type: ignore
    result = invoke(clip, "--trace", folder / "trace.json")
    assert result.exit_code == 0, result.output
    assert "warning: expected to write " in result.stderr
    assert len(decode(clip.with_name("clip.deblurred.mp4")).seconds) == 12


def test_the_choices_of_audio_are_those_of_the_job() -> None:
    (option,) = (option for option in cli.run.params if option.name == "audio")
    assert tuple(option.type.choices) == AUDIO_CHOICES  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--segment", "0/3"], "expected --segment K/N with K from 1 to N"),
        (["--segment", "half"], "expected --segment K/N with K from 1 to N"),
        (["--segment", "1/2", "--no-resume"], "expected share k of n"),
        (["--workers", 2, "--devices", "cpu"], "expected one of --devices, --workers and --ray"),
    ],
)
def test_divisions_of_a_job_that_make_no_sense_are_refused(
    clip: Path, loads: Loads, options: list[object], message: str
) -> None:
    result = invoke(clip, *options)
    assert result.exit_code == 2
    assert message in result.stderr
