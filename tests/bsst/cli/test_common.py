"""What every command refuses before any work, in one line with its status."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bsst import cli
from bsst.cli.common import PLAN
from bsst.errors import UsageError
from bsst.runtime.network.network import DEFAULT_PLAN
from tests.media import Clip


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], prog_name="bsst")


def refused(status: int, words: str, *arguments: object) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (status, ""), result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("'1.5' is not a valid integer; see bsst run --help", ["run", "x.mp4", "--crf", "1.5"]),
        ("no such option '--bogus'", ["run", "x.mp4", "--bogus"]),
        ("missing argument '[PLAN] VIDEO...'", ["run"]),
        ("-1 is not in the range x>=0", ["run", "x.mp4", "--window-overlap", "-1"]),
        ("-1 is not in the range x>=0", ["run", "x.mp4", "--tile-overlap", "-1"]),
        ("100000 is not in the range 0<=x<=256", ["run", "x.mp4", "--threads", "100000"]),
        ("expected one plan, got y.plan and x.plan", ["run", "x.mp4", "x.plan", "--plan", "y.plan"]),
        ("expected a video besides the plan x.plan", ["run", "x.plan"]),
        ("expected one pipe or several files", ["run", "x.mp4", "-"]),
        ("expected a folder or a pattern such as out/{stem}_sharp.mp4", ["run", "x.mp4", "y.mp4", "-o", "z.mp4"]),
        ("no such command 'bogus'; see bsst --help", ["bogus"]),
        ("expected a size such as 800MB or 2GiB", ["export", "-o", "x.plan", "--max-memory", "nan"]),
        ("inf is not a finite number", ["export", "-o", "x.plan", "--time-limit", "inf"]),
        ("nan is not a finite number", ["parity", "x.plan", "--clip", "x.mp4", "--min-psnr", "nan"]),
    ],
)
def test_wrong_usage_is_one_line(words: str, arguments: list[str]) -> None:
    refused(2, words, *arguments)


@pytest.mark.parametrize(
    ("words", "found"),
    [("bsst cali", "plain,calibrate"), ("bsst run --max", "plain,--max-memory"), ("bsst export --bf", "plain,--bf16")],
)
def test_the_shell_completes_commands_and_options(words: str, found: str) -> None:
    count = str(len(words.split()) - 1)
    environment = {"_BSST_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": count}
    result = CliRunner().invoke(cli.main, [], prog_name="bsst", env=environment)
    assert result.output.splitlines() == [found]


def test_packaged_is_the_plan_of_the_package_unless_a_file_is_called_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert PLAN.convert("packaged", None, None) == DEFAULT_PLAN
    (tmp_path / "packaged").write_bytes(b"no plan")
    refused(5, "expected a plan that ends", "export-triton", "packaged", "models")
    assert PLAN.convert("other.plan", None, None) == Path("other.plan")


def test_nothing_that_is_read_or_written_besides_is_overwritten(tmp_path: Path) -> None:
    clip = Clip(times=(0, 512)).write(tmp_path / "clip")
    alias = tmp_path / "alias.mp4"
    alias.hardlink_to(clip)
    before = clip.read_bytes()
    refused(2, "expected another file than", "run", clip, "--trace", clip)
    refused(2, "expected another file than", "run", clip, "--trace", alias)
    refused(2, "expected another file than", "run", clip, "--trace", tmp_path / "clip.deblurred.mp4")
    refused(2, "expected another file than", "run", clip, "-o", tmp_path / "o.mp4", "--trace", tmp_path / "o.mp4")
    refused(2, "expected another file than", "calibrate", DEFAULT_PLAN, clip, "-o", clip)
    refused(2, "expected another file than", "parity", DEFAULT_PLAN, "--clip", clip, "--html", clip)
    refused(2, "expected another file than", "export", "--from", DEFAULT_PLAN, "--fp16", "-o", DEFAULT_PLAN)
    assert clip.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alias.mp4", "clip.mp4"]


def test_folders_and_pipes_are_refused_before_any_work(tmp_path: Path) -> None:
    clip = Clip(times=(0, 512)).write(tmp_path / "clip")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused(4, "got a folder", "run", clip, "--trace", tmp_path)
    refused(4, "got a pipe or device", "export", "-o", pipe)
    refused(4, "expected a folder for", "export", "-o", tmp_path / "none" / "x.plan")
    refused(2, "got a pipe or device", "export", "-o", tmp_path / "x.plan", "--weights", pipe)
    refused(2, "got a pipe or device", "calibrate", DEFAULT_PLAN, pipe, "-o", tmp_path / "r.json")


def test_folders_that_cannot_be_written_are_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere but on read-only disks
    refused(4, "that can be written", "export", "-o", tmp_path / "x.plan")


def test_kill_ends_every_command_like_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bsst.plan.archive.open_plan", lambda path: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    refused(130, "interrupted", "inspect")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_running_out_of_memory_has_its_status(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("bsst.plan.archive.open_plan", fail)
    refused(6, "expected more memory, ran out", "inspect")


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ([], (12, (256, 256), (256, 256), 4)),
        (["--frames", "4"], (4, (256, 256), (256, 256), 2)),
        (["--frames", "4", "--tile", "64x192"], (4, (64, 192), (128, 192), 2)),
        (["--tile", "64x64", "--flow-size", "256x128"], (12, (64, 64), (256, 128), 4)),
    ],
)
def test_sizes_that_are_not_given_fit_those_that_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], sizes: tuple[object, ...]
) -> None:
    made: list[tuple[object, ...]] = []

    def note(output: Path, networks: object, geometry: Any, *, window_overlap: int, **options: object) -> None:
        made.append((geometry.frames, geometry.tile, geometry.flow_size, window_overlap))
        raise UsageError("enough")

    monkeypatch.setattr("bsst.export.export_plan.export_plan", note)
    refused(2, "enough", "export", "-o", tmp_path / "x.plan", *arguments)
    assert made == [sizes]


def test_no_frames_are_no_default(tmp_path: Path) -> None:
    refused(2, "expected --window 4 to 8, 10 or a multiple of 4, got 0", "export", "-o", tmp_path / "x", "--frames", 0)


@pytest.mark.parametrize("name", sorted(cli.main.commands))
def test_help_of_every_command_shows_no_open_end_of_a_range(name: str) -> None:
    shown = CliRunner().invoke(cli.main, [name, "--help"])
    assert shown.exit_code == 0
    assert "None" not in shown.output


def test_a_python_user_finds_the_version_and_every_error_in_the_package() -> None:
    import bsst
    from bsst import errors

    assert bsst.__version__
    assert set(errors.__all__) <= set(bsst.__all__) <= set(dir(bsst))
