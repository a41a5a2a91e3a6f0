"""Long pauses between frames, which MP4 and MOV count in 31 bits, and what a container refuses at the end."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import av.error
import pytest

from bsst.errors import OutputError
from bsst.runtime.job import deblur
from bsst.runtime.jobs.options import OutputFormat
from bsst.runtime.video.writer import VideoWriter
from tests.media import Clip, Identity, decode

HOUR = 3600
TWO_DAYS = tuple(48 * HOUR * 1000 * index for index in range(9))
ONE_PAUSE = (0, 40, 48 * HOUR * 1000, 48 * HOUR * 1000 + 40)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("times", [TWO_DAYS, ONE_PAUSE], ids=["all", "one"])
def test_frames_two_days_apart_keep_their_times(tmp_path: Path, suffix: str, times: tuple[int, ...]) -> None:
    source = Clip(suffix=".mkv", times=times, time_base=Fraction(1, 1000), size=(48, 64)).write(tmp_path / "clip")
    result = deblur(source, tmp_path / f"out{suffix}", Identity())
    assert decode(result.output).seconds == [Fraction(time, 1000) for time in times]


@pytest.mark.parametrize("hours", [5, 7])
def test_a_pause_that_mp4_cannot_count_is_told_before_the_first_frame(tmp_path: Path, hours: int) -> None:
    times = tuple(90000 * second for second in (0, 1, hours * HOUR, hours * HOUR + 1))
    recipe = Clip(suffix=".nut", codec="ffv1", times=times, time_base=Fraction(1, 90000), size=(48, 64))
    source, restorer = recipe.write(tmp_path / "clip"), Identity()
    if hours == 5:
        assert deblur(source, tmp_path / "out.mp4", restorer).frames == 4
        return
    with pytest.raises(OutputError, match=r"at most 6\.6 h .* for mp4, got 7\.0 h; choose .* \.mkv"):
        deblur(source, tmp_path / "out.mp4", restorer)
    assert restorer.clips == 0
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
    assert deblur(source, tmp_path / "out.mkv", restorer).frames == 4


def test_slow_pictures_keep_their_times(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for index in range(3):
        Clip(suffix=".png", codec="png", pixel_format="rgb24", times=(0,), size=(48, 64)).write(
            tmp_path / "frames" / f"{index}"
        )
    result = deblur(tmp_path / "frames", tmp_path / "out.mp4", Identity(), rate=Fraction(1, 200_000))
    assert decode(result.output).seconds == [0, 200_000, 400_000]


@pytest.mark.parametrize("lossless", [False, True])
def test_a_film_that_its_container_refuses_at_the_end_is_kept_in_another(
    tmp_path: Path, lossless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = VideoWriter._flush

    def refuse(writer: VideoWriter) -> None:
        if writer._container_name == "mp4":
            raise av.error.ArgumentError(22, "Invalid argument")
        flush(writer)

    monkeypatch.setattr(VideoWriter, "_flush", refuse)
    source = Clip().write(tmp_path / "clip")
    with pytest.raises(OutputError, match=r"mp4 can hold, FFmpeg says: Invalid argument; .* kept as .*out\.new\.mkv"):
        deblur(source, tmp_path / "out.mp4", Identity(), output_format=OutputFormat(lossless=lossless))
    assert decode(tmp_path / "out.new.mkv").seconds == decode(source).seconds
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.new.mkv"]
