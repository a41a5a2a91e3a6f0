"""The built wheel alone runs a plan: nothing of the checkout is needed."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.media import Clip, decode

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", "--quiet", "-w", folder], check=True)
    (path,) = folder.glob("bsst-*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_plan_weights_and_type_marker_but_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"bsst/runtime/data/edge.plan", "bsst/reference/weights/edge.safetensors", "bsst/py.typed"} <= set(names)
    assert not [name for name in names if "tests" in Path(name).parts or "benchmarks" in Path(name).parts]


@pytest.mark.slow
def test_a_wheel_installed_away_from_the_checkout_inspects_and_runs_the_packaged_plan(
    wheel: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", site, wheel], check=True
    )
    program = f"""
import sys
sys.path[:0] = [{str(site)!r}, {sysconfig.get_paths()["purelib"]!r}]
import bsst
from bsst.cli import main
assert bsst.__file__.startswith({str(site)!r}), bsst.__file__
main(sys.argv[1:], standalone_mode=False)
"""

    def run(*arguments: str) -> str:
        # -I and -S: neither the working folder nor the editable install of the checkout can be found.
        command = [sys.executable, "-I", "-S", "-c", program, *arguments]
        return subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True).stdout

    plan = site / "bsst" / "runtime" / "data" / "edge.plan"
    assert json.loads(run("inspect", "--json", str(plan)))["manifest"]["target"] == "cpu"
    clip = Clip(size=(70, 102), times=tuple(range(0, 5 * 512, 512))).write(tmp_path / "blurry")
    run("run", str(clip), "-o", str(tmp_path / "sharp.mp4"))
    sharp = decode(tmp_path / "sharp.mp4")
    assert (len(sharp.seconds), sharp.stream["size"]) == (5, (70, 102))
