"""Previews: the blurriest part is found, and shown left and right, with its own times and sound."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from bsst.errors import UsageError
from bsst.runtime.job import deblur
from bsst.runtime.jobs.options import Execution, OutputFormat
from bsst.runtime.jobs.part import Preview
from bsst.runtime.jobs.preview import _across, blurriest
from bsst.runtime.restore import Tiling
from bsst.runtime.video.reader import VideoReader
from tests.media import Clip, Identity, decode, moving_photograph


class Moves(Identity):
    """Its flow is how much two frames differ; it restores to negatives."""

    def flow(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flow = np.full((2, a.shape[1] // 4, a.shape[2] // 4), np.abs(a - b).mean(), np.float32)
        return flow, -flow

    def restore(self, clip: np.ndarray, backward: np.ndarray, forward: np.ndarray) -> np.ndarray:
        return 1 - super().restore(clip, backward, forward)


def still_but(path: Path, moving: range, *, count: int = 100, codec: str = "ffv1", cut: int = 0) -> Path:
    """A clip of 10 frames a second that moves within a range alone, and changes its picture at a cut."""
    source, other = moving_photograph(count, 96, 128), moving_photograph(2, 96, 128, name="coffee")[1]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for index in range(count):
            pixels = source[index if index in moving else 0] if not cut or index < cut else other
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".avi"])
def test_the_part_that_moves_is_found_whatever_the_index_of_the_file(tmp_path: Path, suffix: str) -> None:
    video = still_but(tmp_path / f"clip{suffix}", range(60, 80), codec="ffv1" if suffix == ".mkv" else "libx264")
    start, end = blurriest(video, Moves(), 2)
    assert end - start == 2
    assert abs(start - 6) < Fraction(1, 2)


def test_a_scene_change_is_no_blur(tmp_path: Path) -> None:
    video = still_but(tmp_path / "clip.mkv", range(20, 40), cut=94)
    assert abs(blurriest(video, Moves(), 2)[0] - 2) < Fraction(1, 2)


def test_a_short_or_still_video_begins_at_the_start(tmp_path: Path) -> None:
    video = still_but(tmp_path / "clip.mkv", range(0), count=12)
    assert blurriest(video, Moves(), 0.5) == (0, Fraction(1, 2))
    assert blurriest(video, Moves(), 60) == (0, Fraction(12, 10))


def test_a_preview_shows_source_and_result_side_by_side_from_its_own_zero(tmp_path: Path) -> None:
    video = still_but(tmp_path / "clip.mkv", range(60, 80))
    result = deblur(
        video, plan=Moves(), part=Preview(2), output_format=OutputFormat(lossless=True), tiling=Tiling(guard=False)
    )
    assert result.output == tmp_path / "clip.preview.mkv"
    start = blurriest(video, Moves(), 2)[0]
    source, got = decode(video), decode(result.output)
    shown = [index for index, time in enumerate(source.seconds) if start <= time < start + 2]
    assert got.stream["size"] == (96, 256)
    assert len(got.seconds) == result.frames == len(shown) == 20
    np.testing.assert_allclose([float(t) for t in got.seconds], np.arange(20) / 10, atol=1e-3)
    for index, planes in zip(shown, got.planes, strict=True):
        np.testing.assert_array_equal(planes[0][:, :128], source.planes[index][0])
        assert np.abs(planes[0][:, 128:] + source.planes[index][0] - 251).max() <= 2  # 16 + 235, a negative
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_preview_has_the_sound_of_its_part(tmp_path: Path) -> None:
    video = Clip(times=tuple(512 * t for t in range(50)), audio="aac", size=(64, 96)).write(tmp_path / "clip")
    got = decode(deblur(video, plan=Moves(), part=Preview(Fraction(1, 2))).output)
    assert got.stream["kinds"] == ["video", "audio"]
    assert 20 <= len(got.audio) <= 25  # 0.5 s of 1024 samples at 48 kHz


def test_left_and_right_are_those_of_the_player(tmp_path: Path) -> None:
    with VideoReader(Clip().write(tmp_path / "clip")) as reader:
        info = reader.info
    one = 1 << 16
    turns = {(one, 0, 0, 0, one, 0): (2, False), (-one, 0, 0, 0, -one, 0): (2, True),
             (0, one, 0, -one, 0, 0): (1, True), (0, -one, 0, one, 0, 0): (1, False)}  # fmt: skip
    for matrix, across in turns.items():
        assert _across(replace(info, display_matrix=(*matrix, 0, 0, 1 << 30))) == across
    assert _across(info) == (2, False)


def test_pictures_make_a_preview_that_is_a_video(tmp_path: Path) -> None:
    folder = tmp_path / "shots"
    folder.mkdir()
    for index, pixels in enumerate(moving_photograph(12, 48, 64)):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        context = av.CodecContext.create("png", "w")
        context.width, context.height, context.pix_fmt, context.time_base = 64, 48, "rgb24", Fraction(1, 25)
        (folder / f"{index:03}.png").write_bytes(b"".join(bytes(packet) for packet in context.encode(frame)))
    result = deblur(folder, plan=Moves(), part=Preview(0.4))
    assert (result.output.name, result.frames) == ("shots.preview.mp4", 10)
    with pytest.raises(UsageError, match="expected one process and a video file for a preview"):
        deblur(folder, tmp_path / "out", plan=Moves(), part=Preview(1))


def test_a_preview_of_a_pipe_or_of_a_share_is_refused(tmp_path: Path) -> None:
    video = Clip().write(tmp_path / "clip")
    for options in ({"execution": Execution(share=(1, 2))}, {"out": "-"}):
        with pytest.raises(UsageError, match="expected a preview of a file alone"):
            deblur(video, plan=Moves(), part=Preview(1), **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected one process"):
        deblur(video, part=Preview(1), execution=Execution(devices=("cpu",)))
