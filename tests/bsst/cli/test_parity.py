"""`bsst parity` as a user meets it: what it refuses, what it measures on the data set layouts, and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bsst.cli.parity import parity
from bsst.plan.archive import open_plan
from bsst.runtime.network.network import DEFAULT_PLAN
from tests.calibration.parity.sabotage import sabotaged, scale_weights
from tests.networks import CITY, small_edge

DATA = Path(__file__).parents[2] / "data"
GOPRO = Path(os.environ.get("BSST_GOPRO_ROOT", DATA / "gopro"))
DVD = Path(os.environ.get("BSST_DVD_ROOT", DATA / "dvd"))
AT_NIGHT = pytest.param("packaged", marks=pytest.mark.nightly)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(parity, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "one of --clip, --gopro and --dvd, got none"),
        (["--clip", CITY, "--dvd", "x"], 2, "got --clip, --dvd"),
        (["--gopro", "x", "--truth", CITY], 2, "--truth with --clip, got it with --gopro"),
        (["--clip", CITY, "--against", "b.plan", "--weights", "w"], 2, "got --against b.plan"),
        (["--clip", CITY, "--limit", "0"], 2, "--limit"),
        (["--gopro", "nowhere"], 3, "ROOT/test/blur/CLIP/FRAME"),
        (["--clip", "nowhere.mp4"], 3, "found nothing at nowhere.mp4"),
        (["--clip", CITY, "--weights", "nowhere.pth"], 5, "nowhere.pth: expected a checkpoint"),
        (["--clip", CITY, "--against", "nowhere.plan"], 5, "nowhere.plan: expected a plan"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(arguments: list[object], status: int, message: str) -> None:
    result = run(DEFAULT_PLAN, *arguments)
    assert result.exit_code == status, result.output
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_other_weights_and_other_sizes_are_refused(tmp_path: Path) -> None:
    import dataclasses

    from bsst.plan.archive import write_plan

    plan = open_plan(DEFAULT_PLAN)
    members: dict[str, Path | bytes] = {s.member: plan.member(s.name) for s in plan.manifest.stages}
    manifest = dataclasses.replace(plan.manifest, shapes=())
    write_plan(tmp_path / "a.plan", dataclasses.replace(manifest, weights_sha256="b" * 64), members)
    result = run(tmp_path / "a.plan", "--clip", CITY)
    assert result.exit_code == 5
    assert "expected the weights that the plan was made from" in result.output
    write_plan(tmp_path / "b.plan", dataclasses.replace(manifest, window_overlap=3), members)
    result = run(DEFAULT_PLAN, "--clip", CITY, "--against", tmp_path / "b.plan")
    assert result.exit_code == 2
    assert "the window overlap of the plan, got 3 instead of 2" in result.output


def test_missing_packages_are_named_before_any_work(tmp_path: Path) -> None:
    block = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED}:
            raise ImportError(f"{name} imported", name=name)
sys.meta_path.insert(0, Refuse())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {BLOCKED} else find(name, *rest)
from bsst.cli.parity import parity; parity()
"""
    for package, extra in (("skimage", "parity"), ("jinja2", "parity"), ("torch", "export")):
        code = block.replace("BLOCKED", repr(package))
        command = [sys.executable, "-c", code, str(DEFAULT_PLAN), "--clip", str(CITY), "--frames", "2"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 5, done.stderr
        assert f"pip install 'bsst[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.gopro
@pytest.mark.parametrize("network", ["packaged"] if "BSST_GOPRO_ROOT" in os.environ else ["small", AT_NIGHT])
def test_a_plan_equals_pytorch_on_gopro(
    network: str, cpu_plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tests/export/test_export_plan.py` compares the packaged plan, in its windows of 12 frames, on a clip."""
    plan = DEFAULT_PLAN
    if network == "small":
        plan = cpu_plan
        monkeypatch.setattr("bsst.reference.checkpoint.load_networks", lambda weights, raft: small_edge())
        monkeypatch.setattr("bsst.calibration.parity.footage.PATCH_OVERLAP", 32)  # half of a tile
    report = tmp_path / "report.html"
    result = run(plan, "--gopro", GOPRO, "--patches", "--json", "--quiet", "--html", report)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["within"]
    assert data["difference"]["psnr"] >= 80
    assert data["difference"]["not_finite"] == {"plan": 0, "reference": 0}
    assert min(stage["isolated"]["psnr"] for stage in data["stages"]) >= 80
    truth = data["ground_truth"]
    for mean in ("frames", "sub-sequences"):
        assert truth["plan"][mean]["psnr"] == pytest.approx(truth["reference"][mean]["psnr"], abs=0.01)
        if network == "packaged":
            assert truth["plan"][mean]["psnr"] > truth["input"][mean]["psnr"] - 0.05
        else:  # random weights
            assert truth["plan"][mean]["psnr"] < truth["input"][mean]["psnr"] - 0.05
    assert f"windows of {open_plan(plan).manifest.frames} frames, not 48" in data["protocol_deviations"]
    assert not any("--patches" in reason for reason in data["protocol_deviations"])
    assert ("BSST_GOPRO_ROOT" in os.environ) != any("clips with" in r for r in data["protocol_deviations"])
    scored = sum(bool(frame["scores"]) for frame in data["frames"])
    assert scored == (1111 - 44 if "BSST_GOPRO_ROOT" in os.environ else 1 + 3)
    assert "Within every budget" in report.read_text()


@pytest.mark.dvd
def test_a_sabotaged_plan_is_over_budget_on_dvd_and_its_node_is_named(cpu_plan: Path, tmp_path: Path) -> None:
    plan, frames = (DEFAULT_PLAN, []) if "BSST_DVD_ROOT" in os.environ else (cpu_plan, ["--frames", 5])
    bad = sabotaged(plan, tmp_path / "bad.plan", "decode", lambda graph: scale_weights(graph, "node_conv2d_2", 1.5))
    result = run(bad, "--dvd", DVD, "--against", plan, "--bisect", *frames)
    assert result.exit_code == 9, result.output
    assert "OVER BUDGET    PSNR of the worst stage, decode, dB" in result.stdout
    assert "worst stage  decode" in result.stdout
    assert "decode leaves its budget of 80 dB on the reference's inputs" in result.stdout
    assert "first bad node: Conv node_conv2d_2 " in result.stdout
    stages = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.endswith(("0", "5"))}
    assert stages["encode"] == stages["attend"] == ["200.0", "200.0"]
