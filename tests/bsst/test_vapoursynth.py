"""The VapourSynth filter, on the real `vspipe` where VapourSynth is installed (`make test-vapoursynth`)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bsst
from bsst.errors import InputError, MissingDependencyError
from bsst.runtime.one_clip import moving_texture
from bsst.vapoursynth import deblur

HERE = importlib.util.find_spec("vapoursynth") is not None
needs_vapoursynth = pytest.mark.skipif(not HERE, reason="no vapoursynth package, which needs Python 3.12; see Makefile")

SCRIPT = """
import numpy as np, vapoursynth as vs, bsst.vapoursynth
from vapoursynth import core

video = np.load("video.npy")
count, _, height, width = video.shape

def fill(n, f):
    frame = f.copy()
    for plane in range(3):
        np.copyto(np.asarray(frame[plane]), video[n, plane])
    return frame

clip = core.std.BlankClip(format=vs.RGBS, width=width, height=height, length=count)
core.num_threads = {threads}
clip = clip.std.ModifyFrame(clips=clip, selector=fill)
bsst.vapoursynth.deblur(clip)[{order}].set_output()
"""


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    with bsst.load_network(size=(64, 96)) as network:
        return np.stack(list(bsst.deblur_frames(moving_texture(14, 64, 96), network)))


@needs_vapoursynth
@pytest.mark.slow
@pytest.mark.parametrize(("order", "threads"), [(":", 4), ("::-1", 1)], ids=["forward", "backward on one thread"])
def test_vspipe_gives_the_frames_of_the_whole_video(
    tmp_path: Path, expected: np.ndarray, order: str, threads: int
) -> None:
    video = moving_texture(14, 64, 96)
    np.save(tmp_path / "video.npy", video)
    (tmp_path / "script.vpy").write_text(SCRIPT.format(order=order, threads=threads))
    assert np.abs(expected - video).max() > 0.01
    programs, environment = Path(sys.executable).parent, {**os.environ, "HOME": str(tmp_path)}
    subprocess.run([programs / "vapoursynth", "config"], env=environment, check=True, capture_output=True)
    command = [programs / "vspipe", "script.vpy", "frames.raw"]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=600)
    planes = np.fromfile(tmp_path / "frames.raw", np.float32).reshape(video.shape)
    got = planes[:, [2, 0, 1]]  # vspipe writes green, blue, red
    np.testing.assert_array_equal(got, expected[::-1] if order == "::-1" else expected)


@needs_vapoursynth
def test_a_clip_in_other_colours_is_refused_with_the_remedy() -> None:
    import vapoursynth as vs

    clip = vs.core.std.BlankClip(format=vs.YUV420P8, width=96, height=64, length=2)
    with pytest.raises(InputError, match="expected a clip of format RGBS and constant size, got YUV420P8, 64x96; use"):
        deblur(clip)
    with pytest.raises(InputError, match="expected a VapourSynth clip of video, got str"):
        deblur("holiday.mp4")


def test_without_vapoursynth_the_filter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vapoursynth", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'bsst\[vapoursynth\]'"):
        deblur(object())
