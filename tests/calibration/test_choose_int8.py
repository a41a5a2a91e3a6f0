from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from bsst.calibration.calibrate import calibrate, sample_size
from bsst.calibration.choose_int8 import Budget, decision_table
from bsst.calibration.precision.int8 import to_int8
from bsst.calibration.precision.int8_placement import INT8_STAGES, plain_graph
from bsst.calibration.precision.to_half import feature_tensors, precision_shares, to_half
from bsst.calibration.ranges import Ranges, write_ranges
from bsst.calibration.samples import clip_record, read_samples
from bsst.cli import main
from bsst.cli.export import export
from bsst.engines.builder import BuildOptions, StageGraph
from bsst.engines.inspect_plan import plan_table
from bsst.engines.prepare import prepare_stage
from bsst.engines.rebuild import Int8Request, rebuild_plan
from bsst.engines.tensorrt_rtx import TensorRTRTXBuilder
from bsst.errors import BuildError, UsageError
from bsst.plan.archive import open_plan, write_plan
from bsst.runtime.metrics import float_psnr
from bsst.runtime.network.network import Network, host_network
from bsst.runtime.network.wiring import clip_tensors
from bsst.runtime.one_clip import restore_clip
from bsst.runtime.sessions.ort import OrtSession

DATA = Path(__file__).parents[1] / "data"
CITY, SHARP = DATA / "city_blurry.mp4", DATA / "city_sharp.mp4"

pytestmark = pytest.mark.usefixtures("prepared")


@pytest.fixture(scope="module")
def ranges(cpu_plan: Path) -> Ranges:
    return calibrate(cpu_plan, [clip_record(CITY, SHARP)], method="minmax", windows=1)


@pytest.fixture(scope="module", autouse=True)
def always_faster() -> Iterator[None]:
    """What is chosen depends on the clips alone, not on this machine's minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bsst.calibration.choose_int8.speedup", lambda *forms: 2.0)
        yield


@pytest.fixture(scope="module")
def int8_plan(prepared: None, cpu_plan: Path, ranges: Ranges, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "int8.plan"
    rebuild_plan(cpu_plan, path, target="cpu", int8=Int8Request(ranges=ranges))
    return path


def network(path: Path) -> Network:
    plan = open_plan(path)
    sessions = {s.name: OrtSession(s.name, plan.member(s.name), threads=1) for s in plan.manifest.stages}
    return host_network(plan.manifest, sessions)


def test_an_int8_plan_keeps_to_its_budget_on_a_real_clip(cpu_plan: Path, int8_plan: Path, ranges: Ranges) -> None:
    manifest = open_plan(int8_plan).manifest
    (sample,) = read_samples(ranges.clips, frames=4, size=sample_size(manifest), windows=1)
    with network(cpu_plan) as exact, network(int8_plan) as quantised:
        expected, got = (restore_clip(n, sample.blurry) for n in (exact, quantised))
    assert np.isfinite(got).all()
    decisions = manifest.parity["int8"]
    measured = float_psnr(expected, got, 1.0)
    assert 45 < measured < 100  # 100 and more would mean that nothing was rounded
    assert abs(measured - decisions["clip"]["psnr"]) < 0.5
    assert abs(decisions["clip"]["loss"]) <= 0.1
    assert decisions["budget"] == {"loss_db": 0.1, "psnr_db": 45.0}
    assert int8_plan.stat().st_size < 0.95 * cpu_plan.stat().st_size


def test_only_stages_that_may_be_quantised_are_and_the_manifest_says_how_much(int8_plan: Path) -> None:
    manifest = open_plan(int8_plan).manifest
    assert manifest.precision == "int8"
    for stage in manifest.stages:
        if stage.name in INT8_STAGES:
            # On a CPU, residuals and transposed convolutions stay float32.
            assert 0.35 < stage.precision["int8"] <= 1
            assert set(stage.precision) <= {"int8", "float32"}
        else:
            assert stage.precision == {"float32": 1.0}
    assert set(manifest.parity["int8"]["stages"]) == set(INT8_STAGES)
    assert "int8 100%" in plan_table(open_plan(int8_plan))
    assert {row["speed"] for row in manifest.parity["int8"]["stages"].values()} == {2.0}
    table = decision_table(manifest.parity["int8"])
    assert len(table) == 2 + len(INT8_STAGES)
    assert all(line.endswith("yes") for line in table[2:])


def test_what_is_not_quantised_falls_back_to_half_precision(
    cpu_plan: Path, ranges: Ranges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ("encode", "restore")
    monkeypatch.setattr("bsst.calibration.choose_int8.INT8_STAGES", chosen)
    output = tmp_path / "mixed.plan"
    manifest = rebuild_plan(
        cpu_plan, output, target="cpu", precision="fp16", int8=Int8Request(ranges=ranges), check=False
    )
    shares = {stage.name: stage.precision for stage in manifest.stages}
    assert all(set(shares[name]) <= {"int8", "float16"} and "int8" in shares[name] for name in chosen)
    assert shares["propagate_forward_1"] == shares["flow"] == shares["decode"] == {"float16": 1.0}
    assert clip_tensors(manifest)["full"].dtype == "float16"  # stages agree on what they hand over
    (sample,) = read_samples(ranges.clips, frames=4, size=sample_size(manifest), windows=1)
    with network(cpu_plan) as exact, network(output) as mixed:
        assert float_psnr(restore_clip(exact, sample.blurry), restore_clip(mixed, sample.blurry), 1.0) > 45


def test_a_stage_that_would_break_the_budget_stays_and_the_others_do_not(
    cpu_plan: Path, ranges: Ranges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bsst.calibration.choose_int8.INT8_STAGES", ("restore", "fuse", "encode"))
    narrow = {name: (low / 50, high / 50) for name, (low, high) in ranges.tensors["restore"].items()}
    without_truth = [clip_record(CITY, None)]
    bad = dataclasses.replace(ranges, tensors=ranges.tensors | {"restore": narrow}, clips=tuple(without_truth))
    request = Int8Request(ranges=bad, budget=Budget(psnr_db=60))
    manifest = rebuild_plan(cpu_plan, tmp_path / "a.plan", target="cpu", int8=request)
    decisions = manifest.parity["int8"]
    assert {name for name, row in decisions["stages"].items() if not row["int8"]} == {"restore"}
    assert manifest.stage("restore").precision == {"float32": 1.0}
    assert decisions["stages"]["restore"]["alone"]["psnr"] < 60 <= decisions["clip"]["psnr"]
    assert "loss" not in decisions["clip"]


def test_a_stage_that_is_not_faster_on_the_cpu_stays_float32(
    cpu_plan: Path, ranges: Ranges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bsst.calibration.choose_int8.INT8_STAGES", ("restore", "encode"))
    monkeypatch.setattr(
        "bsst.calibration.choose_int8.speedup", lambda spec, before, after: 1.04 if spec.name == "restore" else 1.06
    )
    manifest = rebuild_plan(cpu_plan, tmp_path / "a.plan", target="cpu", int8=Int8Request(ranges=ranges))
    assert manifest.stage("restore").precision == {"float32": 1.0}
    assert manifest.stage("encode").precision["int8"] > 0.4
    assert manifest.parity["int8"]["stages"]["restore"]["alone"]["loss"] <= 0.1


def test_ranges_of_another_plan_are_refused_before_anything_is_measured(
    cpu_plan: Path, ranges: Ranges, tmp_path: Path
) -> None:
    steps: list[str] = []
    other = Int8Request(ranges=dataclasses.replace(ranges, stages_sha256="0" * 64))
    with pytest.raises(UsageError, match="ranges of another one"):
        rebuild_plan(cpu_plan, tmp_path / "a.plan", target="cpu", int8=other, progress=steps.append)
    assert steps == []


@pytest.fixture(scope="module")
def restore(cpu_plan: Path) -> onnx.ModelProto:
    return onnx.load_from_string(open_plan(cpu_plan).member("restore"))


@pytest.mark.needs_rtx
@pytest.mark.parametrize(("capability", "half"), [("7.5", True), ("8.9", True), ("8.9", False)])
def test_tensorrt_rtx_builds_an_int8_stage(
    restore: onnx.ModelProto, ranges: Ranges, half: bool, capability: str, tmp_path: Path
) -> None:
    model = to_int8(plain_graph(restore), ranges.tensors["restore"], stage="restore")
    if half:
        model = to_half(model, "float16", half_tensors=feature_tensors(model))
    built = build(model, capability, tmp_path)
    plain = build(prepare_stage(restore, "tensorrt-rtx", "fp16"), capability, tmp_path)
    # Half the bytes of the products in int8, whatever the rest takes.
    assert built["weight_bytes"] < plain["weight_bytes"]


@pytest.mark.needs_rtx
def test_tensorrt_rtx_builds_a_bfloat16_stage_for_sm_80_and_later_alone(
    restore: onnx.ModelProto, tmp_path: Path
) -> None:
    model = prepare_stage(restore, "tensorrt-rtx", "bf16")
    assert precision_shares(model) == {"bfloat16": 1.0}
    assert build(model, "8.0", tmp_path)["weight_bytes"] > 0
    with pytest.raises(BuildError, match="b16"):
        build(model, "7.5", tmp_path)


def build(model: onnx.ModelProto, capability: str, folder: Path) -> dict[str, float]:
    options = BuildOptions(compute_capabilities=(capability,), work_directory=folder)
    return dict(TensorRTRTXBuilder().build(StageGraph(name="s", model=model.SerializeToString()), options).facts)


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["export", *map(str, arguments)])
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--int8",), "expected --ranges with --int8"),
        (("--ranges", "r.json"), "expected --int8 with --ranges"),
        (("--int8-loss", "1"), "expected --int8 with --int8-loss"),
        (("--int8", "--ranges", "missing.json"), "expected ranges at missing.json"),
        (("--fp16", "--bf16"), "--fp16 or --bf16, got both"),
        (("--bf16",), "--bf16 with --target tensorrt or tensorrt-rtx, got cpu"),
        (
            ("--bf16", "--int8", "--ranges", "r.json", "--target", "tensorrt-rtx", "--sm", "89"),
            "--int8 with --fp16 or alone",
        ),
    ],
)
def test_options_that_do_not_fit_end_with_status_2(
    cpu_plan: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    status, err = invoke("--from", cpu_plan, *arguments, "-o", tmp_path / "a.plan")
    assert status == 2
    assert message in err


def test_a_plan_in_which_nothing_can_be_quantised_is_refused_with_the_table_and_status_5(
    cpu_plan: Path, ranges: Ranges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bsst.calibration.choose_int8.INT8_STAGES", ("fuse", "restore"))
    file, output = tmp_path / "ranges.json", tmp_path / "a.plan"
    write_ranges(file, dataclasses.replace(ranges, clips=(clip_record(CITY, None),)))
    status, err = invoke("--from", cpu_plan, "--int8", "--ranges", file, "-o", output, "--int8-psnr", "1000")
    assert (status, output.exists()) == (5, False)
    assert [line.split()[0] for line in err.splitlines() if line.endswith(" no")] == ["fuse", "restore"]
    assert re.match(r"error: expected at least one stage in int8 .* 1000\.0 dB of fp32, got none", err.splitlines()[-1])


def test_the_defaults_in_the_help_are_those_of_the_budget() -> None:
    budget = Budget()
    helps = {option.opts[0]: option.help for option in export.params if hasattr(option, "help")}
    assert f"[default: {budget.loss_db:g}]" in str(helps["--int8-loss"])
    assert f"[default: {budget.psnr_db:g}]" in str(helps["--int8-psnr"])


def test_another_plan_ends_with_status_2(cpu_plan: Path, ranges: Ranges, tmp_path: Path) -> None:
    plan = open_plan(cpu_plan)
    members: dict[str, Path | bytes] = {s.member: plan.member(s.name) for s in plan.manifest.stages}
    model = onnx.load_from_string(plan.member("fuse"))
    model.doc_string = "one byte more"
    members["fuse.onnx"] = model.SerializeToString()
    write_plan(tmp_path / "other.plan", plan.manifest, members)
    write_ranges(tmp_path / "ranges.json", ranges)
    status, err = invoke(
        *("--from", tmp_path / "other.plan", "--int8", "--ranges", tmp_path / "ranges.json", "-o", tmp_path / "a.plan")
    )
    assert status == 2
    assert "got ranges of another one" in err
