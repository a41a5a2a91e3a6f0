"""Clocks of what people bring: recordings that were joined, overlap, or begin between two ticks."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from bsst.runtime.job import deblur
from bsst.runtime.video.reader import VideoReader
from tests.media import Clip, Identity, decode


@pytest.mark.parametrize("suffix", [".ts", ".vob"])
@pytest.mark.parametrize("audio", [None, "mp2"])
def test_joined_recordings_go_on_where_the_first_part_ends(tmp_path: Path, suffix: str, audio: str | None) -> None:
    part = Clip(
        suffix=suffix, codec="mpeg2video", times=tuple(range(12)), time_base=Fraction(1, 25), audio=audio
    ).write(tmp_path / "part")
    joined = tmp_path / f"joined{suffix}"
    joined.write_bytes(part.read_bytes() * 2)
    for out in ("out.mkv", "out.mp4"):
        result = deblur(joined, tmp_path / out, plan=Identity())
        steps = np.diff([float(time) for time in decode(result.output).seconds])
        assert result.frames == 24
        # With sound the gap is the sound's that outlasts the frames, as ffmpeg leaves it.
        assert max(abs(np.sort(steps)[:-1] - 0.04)) < 0.0011
        assert 0.039 < max(steps) < 0.5
        assert any("the clock of the file jumps" in warning for warning in result.warnings)


@pytest.mark.parametrize("out", ["out.mkv", "out.mp4"])
def test_recordings_that_overlap_by_two_frames_keep_them_apart(tmp_path: Path, out: str) -> None:
    """Less than FFmpeg takes for a jump of the clock: frames are shown a thousandth apart, and none is dropped."""
    clip = Clip(suffix=".ts", codec="mpeg2video", times=tuple(range(12)), time_base=Fraction(1, 25))
    first = clip.write(tmp_path / "first")
    second = replace(clip, times=tuple(range(11, 23))).write(tmp_path / "second")  # the first begins at 0.04 s
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    result = deblur(joined, tmp_path / out, plan=Identity())
    steps = np.diff([float(time) for time in decode(result.output).seconds])
    assert steps[:14] == pytest.approx([0.04] * 11 + [0.001] * 2 + [0.038], abs=2e-5)
    assert steps[14:] == pytest.approx([0.04] * 9, abs=2e-5)
    assert any("2 frames had no usable timestamp" in warning for warning in result.warnings)


def test_avi_with_reordered_frames_has_even_steps(tmp_path: Path) -> None:
    source = Clip(
        suffix=".avi", times=tuple(range(25)), time_base=Fraction(1, 25), options={"bf": "3", "b-pyramid": "none"}
    ).write(tmp_path / "clip")
    with VideoReader(source) as reader:
        times = [float(frame.pts * reader.info.time_base) for frame in reader]
        assert not any("timestamp" in warning for warning in reader.warnings)
    np.testing.assert_allclose(np.diff(times), 0.04, atol=1e-9)


@pytest.mark.parametrize("first", [Fraction(1, 12), Fraction(132001, 90000), Fraction(1001, 30000)])
def test_mp4_keeps_the_time_of_a_first_frame_between_milliseconds(tmp_path: Path, first: Fraction) -> None:
    start = first * 90000
    source = Clip(
        suffix=".ts", times=tuple(int(start) + 3003 * t for t in range(8)), time_base=Fraction(1, 90000), audio="aac"
    ).write(tmp_path / "clip")
    wanted = decode(source).seconds
    for suffix in (".mp4", ".mov"):
        result = deblur(source, tmp_path / f"out{suffix}", plan=Identity())
        found = decode(result.output).seconds
        assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) < Fraction(1, 90000)
