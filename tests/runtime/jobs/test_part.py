"""Parts of a video: exact to the frame, restored as within the whole, sound and chapters cut alike, resumable."""

from __future__ import annotations

from array import array
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from bsst import Part
from bsst.errors import OutputError, UsageError
from bsst.runtime.job import deblur
from bsst.runtime.jobs import resumable
from bsst.runtime.jobs.options import OutputFormat
from bsst.runtime.jobs.part import parse_rate
from bsst.runtime.jobs.report import Observer, Progress
from tests.media import Clip, Identity, decode

NTSC = array("q", (round(Fraction(1001 * index, 30000) * 90000) for index in range(60)))
UNEVEN = tuple(512 * time for time in (0, 1, 2, 4, 5, 9, 10, 11, 17, 18, 19, 20, 21, 22, 30, 31))


class Mean(Identity):
    """What it restores depends on where its windows lie."""

    plan_key = "mean"

    def restore(self, clip: np.ndarray, backward: np.ndarray, forward: np.ndarray) -> np.ndarray:
        return super().restore(clip, backward, forward) * 0.75 + clip.mean(axis=0, keepdims=True) * 0.25


@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [
        ("0.334", "0.367", range(10, 11)),
        (0.333667, "0:00.367033", range(10, 11)),
        (0.335, None, range(11, 60)),
        ("0:00:01", 1.001, range(30, 30)),
        (1, "0:01.002", range(30, 31)),
        (None, "1:40:00", range(60)),
    ],
)
def test_a_time_names_its_frame_to_the_nearest_thousandth(start: Any, end: Any, frames: range) -> None:
    part = Part.of(start=start, end=end)
    if frames:
        assert part.frames(NTSC, Fraction(1, 90000)) == frames
    else:
        with pytest.raises(UsageError, match="expected frames from 1 s to 1.001 s, found none"):
            part.frames(NTSC, Fraction(1, 90000))


def test_times_that_leave_nothing_are_refused() -> None:
    for times in ({"start": 2, "end": 2}, {"end": "1:30", "duration": 5}, {"start": "noon"}, {"start": -1}):
        with pytest.raises(UsageError, match="expected"):
            Part.of(**times)


@pytest.mark.parametrize("times", [UNEVEN, tuple(512 * t + 7000 for t in range(24))], ids=["variable", "late"])
def test_a_part_has_the_pixels_of_the_whole_and_starts_at_zero(tmp_path: Path, times: tuple[int, ...]) -> None:
    source = Clip(suffix=".mkv", codec="ffv1", times=times, size=(64, 96)).write(tmp_path / "clip")
    whole = decode(deblur(source, tmp_path / "whole.mkv", Mean(), output_format=OutputFormat(lossless=True)).output)
    at = decode(source).seconds
    part = deblur(
        source,
        tmp_path / "part.mkv",
        Mean(),
        output_format=OutputFormat(lossless=True),
        part=Part.of(start=at[5] - at[0], end=at[11] - at[0]),
    )
    got = decode(part.output)
    assert part.frames == len(got.seconds) == 6
    assert max(abs(a - (b - at[5])) for a, b in zip(got.seconds, at[5:11], strict=True)) <= Fraction(1, 1000)
    for a, b in zip(got.planes, whole.planes[5:11], strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_sound_and_chapters_are_cut_where_the_frames_are(tmp_path: Path, suffix: str) -> None:
    plain = Clip(times=tuple(512 * t for t in range(50)), audio="aac", size=(64, 96)).write(tmp_path / "plain")
    source = tmp_path / f"clip{suffix}"
    with av.open(str(plain)) as given, av.open(str(source), "w") as written:
        streams = {stream.index: written.add_stream_from_template(stream) for stream in given.streams}
        written.set_chapters([
            {"id": number, "start": 500 * number, "end": 500 * number + 500, "time_base": Fraction(1, 1000),
             "metadata": {"title": str(number)}}
            for number in range(4)
        ])  # fmt: skip
        for packet in given.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                written.mux(packet)
    out = deblur(source, tmp_path / f"part{suffix}", Identity(), part=Part.of(start="0.8", duration=0.6)).output
    before, after = decode(source), decode(out)
    assert len(after.seconds) == 15
    assert after.seconds[0] <= Fraction(1, 1000)
    first, last = _sound(out)
    assert 0 <= first <= Fraction(1024, 48000)
    assert Fraction(6, 10) - Fraction(1024, 48000) <= last < Fraction(6, 10)
    kept = [packet for packet in before.audio if packet in set(after.audio)]
    assert after.audio == kept
    assert len(kept) == 28
    with av.open(str(out)) as container:
        found = [(c["metadata"]["title"], [float(c[edge] * c["time_base"]) for edge in ("start", "end")])
                 for c in container.chapters()]  # fmt: skip
    late = 1024 / 48000  # Matroska starts at zero, so the source's chapters are as much before its sound
    assert [title for title, _ in found] == ["1", "2"]
    assert [edge for _, edges in found for edge in edges] == pytest.approx([0, 0.2, 0.2, 0.6], abs=late)


@pytest.mark.parametrize("out", ["part.mkv", "-"])
def test_progress_counts_the_frames_of_the_part_and_no_more(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], out: str
) -> None:
    source = Clip(times=tuple(512 * t for t in range(40)), size=(64, 96)).write(tmp_path / "clip")
    states: list[Progress] = []
    part = Part.of(start="0.28", end="0.56")  # within a window that begins before and ends after
    place = Path(out) if out == "-" else tmp_path / out
    deblur(source, place, Mean(), part=part, observer=Observer(progress=states.append))
    capfdbinary.readouterr()
    assert {state.total for state in states} == {7}
    assert max(state.work for state in states) == 7
    assert [states[-1].frames, states[-1].eta_seconds] == [7, 0]


def test_a_part_is_a_job_of_its_own_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "segment_length", lambda height, width: 4)
    source = Clip(suffix=".mkv", codec="ffv1", times=tuple(512 * t for t in range(40)), size=(64, 96)).write(
        tmp_path / "clip"
    )
    part, out = Part.of(start=0.4, end=1.2), tmp_path / "part.mkv"

    def stop(progress: Any) -> None:
        if progress.frames > 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="frames are kept"):
        deblur(
            source, out, Mean(), part=part, output_format=OutputFormat(lossless=True), observer=Observer(progress=stop)
        )
    with pytest.raises(OutputError, match="part from 0.4 s to 1.2 s"):
        deblur(source, out, Mean(), part=Part.of(start=0.4), output_format=OutputFormat(lossless=True))
    lines: list[str] = []
    result = deblur(
        source, out, Mean(), part=part, output_format=OutputFormat(lossless=True), observer=Observer(info=lines.append)
    )
    assert result.frames == 20
    assert any("goes on with an unfinished job" in line for line in lines)
    whole, after = (
        decode(deblur(source, tmp_path / "whole.mkv", Mean(), output_format=OutputFormat(lossless=True)).output),
        decode(out),
    )
    for a, b in zip(after.planes, whole.planes[10:30], strict=True):
        np.testing.assert_array_equal(a[0], b[0])


def _sound(path: Path) -> tuple[Fraction, Fraction]:
    """Times of the first and the last packet."""
    with av.open(str(path)) as container:
        times = [p.pts * p.time_base for p in container.demux(audio=0) if p.size and p.pts is not None]
    return times[0], times[-1]


@pytest.mark.parametrize(
    ("part", "count"),
    [(Part(), 60), (Part(start=Fraction(1)), 35), (Part(start=Fraction(1), end=Fraction(3, 2)), 13),
     (Part(start=Fraction(9)), 0), (Part(end=Fraction(9)), 60)],
)  # fmt: skip
def test_frames_are_counted_by_the_rate_before_any_is_read(part: Part, count: int) -> None:
    assert part.count(60, Fraction(25)) == count


@pytest.mark.parametrize(
    ("text", "rate"),
    [("24", Fraction(24)), ("23.976", Fraction(2997, 125)), ("30000/1001", Fraction(30000, 1001))],
)
def test_a_rate_is_a_number_or_a_fraction(text: str, rate: Fraction) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["0", "-1", "1/0", "fast", "1e9", "nan"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a rate such as 25"):
        parse_rate(text)
