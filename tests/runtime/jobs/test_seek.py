"""Part of a video from a key frame is the same as when everything is decoded, or else everything is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from bsst.runtime.frames.scenes import mark_cuts
from bsst.runtime.frames.windows import SourceFrame
from bsst.runtime.jobs.seek import frames_between
from bsst.runtime.jobs.survey import Survey, take_survey
from bsst.runtime.video.decoded import Frame
from bsst.runtime.video.reader import VideoReader
from tests.media import Clip, moving_photograph

COUNT = 70
X264 = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"
EVEN = tuple(range(0, COUNT * 512, 512))
SMALL = {"size": (48, 64), "times": EVEN}
TS = {"suffix": ".ts", "times": tuple(range(7000, 7000 + COUNT * 3003, 3003)), "time_base": Fraction(1, 90000)}
SOUGHT = {
    "h264-b-frames": Clip(**SMALL, options={"x264-params": X264}, audio="aac"),
    "h264-open-gop": Clip(**SMALL, suffix=".mkv", options={"x264-params": X264 + ":open-gop=1"}),
    "h264-uneven": Clip(size=(48, 64), times=tuple(3001 + 512 * t + t % 3 for t in range(COUNT)),
                        options={"x264-params": X264}),
    "hevc-open-gop": Clip(**SMALL, suffix=".mkv", codec="libx265", options={
        "x265-params": "log-level=none:keyint=12:min-keyint=12:open-gop=1:bframes=3:pools=none:frame-threads=1"}),
    "vp9": Clip(**SMALL, suffix=".webm", codec="libvpx-vp9", options={"g": "12", "cpu-used": "8",
                                                                     "deadline": "realtime"}),
    "mpeg2-ts": Clip(**{**SMALL, **TS, "times": tuple(range(COUNT)), "time_base": Fraction(1, 25)},
                     codec="mpeg2video", options={"g": "12", "bf": "2"}),
    "h264-ts": Clip(**{**SMALL, **TS}, options={"x264-params": X264}),
    "ffv1": Clip(**SMALL, suffix=".mkv", codec="ffv1", options={"g": "1"}),
}  # fmt: skip
DECODED = {
    "intra-refresh": Clip(**SMALL, options={"x264-params": "keyint=40:intra-refresh=1:bframes=0"}),
    "avi-b-frames": Clip(size=(48, 64), suffix=".avi", times=tuple(range(COUNT)), time_base=Fraction(1, 25),
                         options={"x264-params": X264 + ":b-pyramid=none"}),
    "one-key-frame": Clip(**SMALL, options={"x264-params": "keyint=infinite:scenecut=0"}),
}  # fmt: skip
RANGES = [(17, 20), (23, 31), (24, 26), (25, 26), (35, 48), (68, 70)]


def surveyed(path: Path) -> tuple[Survey, list[Frame]]:
    with VideoReader(path) as reader:
        frames = list(reader)
    return take_survey(frames, scene_cuts=False, scan=reader.scan), frames


def restarts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted = list[int]()
    genuine = VideoReader.restart
    monkeypatch.setattr(VideoReader, "restart", lambda reader: (counted.append(1), genuine(reader))[1])
    return counted


def check(path: Path, survey: Survey, frames: list[Frame], first: int, last: int) -> None:
    with VideoReader(path, scan=survey.scan) as reader:
        part = list(frames_between(reader, survey, first, last))
    assert [frame.pts for frame in part] == [frame.pts for frame in frames[first:last]]
    for got, want in zip(part, frames[first:last], strict=True):
        np.testing.assert_array_equal(got.rgb, want.rgb)


@pytest.mark.parametrize("name", SOUGHT)
def test_part_of_a_video_equals_the_whole_without_decoding_all(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = SOUGHT[name].write(tmp_path / "clip")
    survey, frames = surveyed(path)
    assert len(survey.digests) == COUNT
    counted = restarts(monkeypatch)
    for first, last in RANGES:
        check(path, survey, frames, first, last)
    assert not counted


@pytest.mark.parametrize("name", DECODED)
def test_part_of_a_video_equals_the_whole_where_a_seek_leads_nowhere(name: str, tmp_path: Path) -> None:
    path = DECODED[name].write(tmp_path / "clip")
    survey, frames = surveyed(path)
    for first, last in RANGES[1:4]:
        check(path, survey, frames, first, last)


@pytest.mark.parametrize("lie", [0, 60], ids=["too-early", "too-late"])
def test_an_index_that_lies_costs_time_and_no_frame(lie: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = SOUGHT["h264-b-frames"].write(tmp_path / "clip")
    survey, frames = surveyed(path)
    genuine = VideoReader.seek
    monkeypatch.setattr(VideoReader, "seek", lambda reader, pts: genuine(reader, survey.times[lie]))
    counted = restarts(monkeypatch)
    check(path, survey, frames, 30, 40)
    assert len(counted) == (lie > 30)


def test_a_damaged_picture_after_a_seek_is_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = SOUGHT["h264-b-frames"].write(tmp_path / "clip")
    survey, frames = surveyed(path)
    genuine = VideoReader.seek

    def grey(reader: VideoReader, pts: int) -> Iterator[Frame]:
        for frame in genuine(reader, pts):
            if frame.pts == survey.times[33]:
                frame.picture.planes[0].update(bytes(frame.picture.planes[0].buffer_size))
            yield frame

    monkeypatch.setattr(VideoReader, "seek", grey)
    check(path, survey, frames, 30, 40)


def joined(path: Path) -> Path:
    part = Clip(size=(48, 64), **{**TS, "times": TS["times"][:40]}).write(path.with_name("part"))
    path.write_bytes(part.read_bytes() * 2)
    return path


def elementary(path: Path) -> Path:
    source = SOUGHT["h264-b-frames"].write(path.with_name("source"))
    with av.open(str(source)) as container, av.open(str(path), "w", format="h264") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    return path


@pytest.mark.parametrize(("name", "make"), [("joined.ts", joined), ("clip.h264", elementary)])
def test_a_clock_that_is_not_the_files_own_is_not_sought(
    name: str, make: Callable[[Path], Path], tmp_path: Path
) -> None:
    survey, frames = surveyed(make(tmp_path / name))
    assert not survey.digests
    check(tmp_path / name, survey, frames, 30, 40)


def test_a_survey_survives_its_file(tmp_path: Path) -> None:
    survey, _ = surveyed(joined(tmp_path / "joined.ts"))
    assert survey.scan is not None
    assert survey.scan.timeline.steps
    again = Survey.from_json(survey.to_json())
    assert (again.times, again.scan.timeline, again.digests) == (survey.times, survey.scan.timeline, survey.digests)


@pytest.mark.parametrize("size", [(48, 64), (720, 96)], ids=["bt601", "bt709"])
def test_a_survey_finds_the_cuts_that_colours_show(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "cuts.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        (stream.height, stream.width), stream.pix_fmt = size, "yuv420p"
        for name in ("astronaut", "coffee", "chelsea", "rocket"):
            for pixels in moving_photograph(4, *size, name=name):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode(None))
    with VideoReader(path) as reader:
        frames = list(reader)
    shown = [index for index, frame in enumerate(mark_cuts(SourceFrame(frame.rgb) for frame in frames)) if frame.cut]
    assert len(shown) >= 2
    assert list(take_survey(frames, scene_cuts=True).scenes) == [0, *shown]
