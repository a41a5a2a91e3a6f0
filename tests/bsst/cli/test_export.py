"""`bsst export` as a user meets it: what it refuses, and that a plan can be built from a plan."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from bsst.cli import export
from bsst.plan.archive import open_plan
from bsst.runtime.network.network import DEFAULT_PLAN


def run(*arguments: object):
    return CliRunner().invoke(export, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "a.plan", "--frames", "8", "--tile", "64x64"], "--from alone, got --window, --tile too"),
        (["--target", "tensorrt-rtx", "--sm", "ampere"], "expected --sm such as 86,89,120, got ampere"),
        (["--sm", "8"], "expected --sm such as"),
        (["--tile", "256"], "expected HEIGHTxWIDTH such as 256x256, got 256"),
        (["--config", "release"], "expected --weights CHECKPOINT"),
        (["--frames", "9"], "use 8 or 10"),
        (["--target", "vulkan"], "'vulkan' is not one of"),
        (["--keep-float32"], "expected --fp16, --bf16 or --int8 with --keep-float32, got fp32"),
        (
            ["--sm", "86", "--time-limit", "9"],
            "expected --sm, --time-limit with --target, --from or --fp16, got a plain",
        ),
        (["--fp16", "--sm", "86"], "expected --sm with --target tensorrt or tensorrt-rtx only, got --target cpu"),
        (["--target", "tensorrt-rtx", "--timing-cache", "t"], "expected --timing-cache with --target tensorrt only"),
        (["--target", "tensorrt-rtx", "--no-plugins"], "expected --no-plugins with --target tensorrt only"),
        (["--target", "tensorrt-rtx", "--sm", "75"], "expected --fp16 with --sm 75"),
        (["--target", "tensorrt", "--optimization-level", "6"], "6 is not in the range 0<=x<=5"),
        (["--target", "ort-cuda", "--optimization-level", "5"], "with --target tensorrt or tensorrt-rtx only"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, message, tmp_path) -> None:
    result = run("-o", tmp_path / "x.plan", *arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "x.plan").exists()


@pytest.mark.needs_rtx
@pytest.mark.parametrize("sm", ["", "75,86", "90"])
def test_compute_capabilities_are_looked_at_before_anything_is_traced(sm, tmp_path) -> None:
    result = run("-o", tmp_path / "x.plan", "--target", "tensorrt-rtx", "--fp16", "--sm", sm)
    assert result.exit_code == 2
    assert "choose them with --sm, as in --sm 86,89" in " ".join(result.output.split())
    assert "tracing" not in result.output


@pytest.mark.needs_rtx
@pytest.mark.slow
def test_limits_of_the_compiler_reach_it(cpu_plan: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BSST_CACHE_DIR", str(tmp_path / "cache"))
    arguments = ["--from", cpu_plan, "--target", "tensorrt-rtx", "--fp16", "--sm", "86", "--no-check"]
    for option, value, words in (
        ("--max-memory", "10MB", "memory limit of 10 MB"),
        ("--time-limit", "0.01", "time limit of 0.01 s"),
    ):
        result = run("-o", tmp_path / "x.plan", *arguments, option, value)
        assert result.exit_code == 5
        assert words in " ".join(result.output.split())
        assert not (tmp_path / "x.plan").exists()


def test_missing_weights_are_status_5(tmp_path) -> None:
    result = run("-o", tmp_path / "x.plan", "--weights", tmp_path / "none.pth")
    assert result.exit_code == 5
    assert "none.pth: expected a checkpoint, got No such file" in result.output


def test_unwritable_output_is_status_4(tmp_path) -> None:
    result = run("-o", tmp_path / "no" / "x.plan", "--from", DEFAULT_PLAN, "--target", "ort-cuda", "--no-cache")
    assert result.exit_code == 4, result.output


@pytest.mark.slow
def test_half_precision_plan_is_built_from_a_plan_and_smaller(cpu_plan: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("BSST_CACHE_DIR", str(tmp_path / "cache"))
    result = run("-o", tmp_path / "half.plan", "--from", cpu_plan, "--fp16")
    assert result.exit_code == 0, result.output
    assert "dB against float32 on a clip" in result.output
    manifest = open_plan(tmp_path / "half.plan").manifest
    assert manifest.precision == "fp16"
    assert all(stage.precision == {"float16": 1.0} for stage in manifest.stages)
    assert (tmp_path / "half.plan").stat().st_size < 0.85 * cpu_plan.stat().st_size
