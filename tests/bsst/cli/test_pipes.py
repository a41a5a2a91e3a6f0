"""Real pipes between real programs: the frames of the file path, nothing else, and one line when the reader leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RUN = """
import numpy as np
from bsst.cli import run
from bsst.runtime.jobs import opened
from tests.media import Identity

class Mean(Identity):  # what it restores depends on where windows lie
    plan_key = "mean"

    def restore(self, clip, backward, forward):
        return super().restore(clip, backward, forward) * 0.75 + clip.mean(axis=0, keepdims=True) * 0.25

opened.load_network = lambda *plan, **options: Mean()
run()
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("ffmpeg") is None or shutil.which("bash") is None, reason="needs ffmpeg and bash"),
]


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run by bash; $RUN is the program under test with the pretended network."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "RUN": f"{sys.executable} {folder / 'run.py'} -q --threads 1",
    }
    (folder / "run.py").write_text(RUN)
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def sums(text: str) -> list[str]:
    return [line.split(",")[-1].strip() for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le"])
def test_three_programs_in_a_row_give_the_frames_of_the_file_path(tmp_path: Path, pixel_format: str) -> None:
    made = "ffmpeg -v error -f lavfi -i testsrc2=size=98x66:rate=25:duration=0.6"
    md5 = f"-pix_fmt {pixel_format} -f framemd5 -"
    assert shell(f"{made} -pix_fmt {pixel_format} -c:v ffv1 clip.mkv", tmp_path).returncode == 0
    alone = shell(f"$RUN clip.mkv -o file.mkv --lossless && ffmpeg -v error -i file.mkv {md5}", tmp_path)
    assert len(sums(alone.stdout)) == 15, alone.stderr
    for name in ("y4m", "nut", "mkv"):
        piped = shell(
            "set -o pipefail; ffmpeg -v error -i clip.mkv -f yuv4mpegpipe -strict -1 - | "
            f"$RUN - -o - --format {name} | ffmpeg -v error -i - {md5}",
            tmp_path,
        )
        assert (piped.returncode, sums(piped.stdout)) == (0, sums(alone.stdout)), piped.stderr


def test_a_reader_that_leaves_ends_the_job_with_one_line(tmp_path: Path) -> None:
    line = (
        "ffmpeg -v quiet -f lavfi -i testsrc2=size=98x66:rate=25:duration=2 -f yuv4mpegpipe - | "
        "$RUN - -o - | head -c 1000 | wc -c; echo ${PIPESTATUS[1]}"
    )
    left = shell(line, tmp_path)
    assert left.stdout.split() == ["1000", "4"]
    assert left.stderr.startswith("error: expected a program that reads standard output to the end")
    assert left.stderr.count("\n") == 1
