"""Decoding on a GPU: the same frames as in software, or software with the reason. Not run here: a GPU.

`fake_video.py` stands in for NVDEC, but for the refusal on a machine without a driver, which is real.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest

from bsst.errors import UsageError
from bsst.runtime.devices.cuda_driver import find_gpus
from bsst.runtime.video.decoded import Frame
from bsst.runtime.video.log import ErrorLog, unlogged
from bsst.runtime.video.reader import VideoReader
from tests.media import FULL, TAG_BT709, Clip
from tests.runtime.video.fake_video import as_gpu_frame, use_nvdec

TICK = 512
CLIPS = {
    "h264-b-frames": Clip(options={"bf": "3", "x264-params": "b-adapt=0"}, times=(0, 512, 1024, 2048, 4608, 5120)),
    "h264-full-range": Clip(matrix=TAG_BT709, range=FULL),
    "hevc-10-bit": Clip(
        codec="libx265", pixel_format="yuv420p10le", options={"x265-params": "log-level=none:bframes=3"}
    ),
}
WITHOUT_GPU = pytest.mark.skipif(bool(find_gpus()), reason="there is a GPU")


def read(path: Path, hwaccel: Any = "none") -> tuple[list[Frame], VideoReader]:
    with VideoReader(path) as reader:
        reader.accelerate(hwaccel)
        return list(reader), reader


def check_same(frames: list[Frame], path: Path) -> None:
    expected, _ = read(path)
    assert len(frames) == len(expected) > 2
    for got, want in zip(frames, expected, strict=True):
        assert (got.pts, got.duration) == (want.pts, want.duration)
        np.testing.assert_array_equal(got.rgb, want.rgb)


@pytest.mark.parametrize("clip", CLIPS)
def test_a_gpu_gives_the_same_frames_times_and_description(
    tmp_path: Path, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = CLIPS[clip].write(tmp_path / "clip")
    expected = read(path)[1].info
    opened = use_nvdec(monkeypatch)
    frames, reader = read(path, "cuda")
    assert reader.info == expected
    assert (reader.decoder, reader.warnings) == (f"{clip.split('-')[0]} on NVDEC", [])
    assert opened[0].decoded == len(frames)
    assert opened[0].closed
    check_same(frames, path)


@pytest.mark.parametrize("fails_at", [1, 2, 11])
def test_software_goes_on_where_the_gpu_fails(tmp_path: Path, fails_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Clip(options={"bf": "3", "x264-params": "b-adapt=0"}).write(tmp_path / "clip")
    opened = use_nvdec(monkeypatch, fails_at=fails_at)
    frames, reader = read(path, "cuda")
    check_same(frames, path)
    assert opened[0].closed
    count = fails_at - (fails_at == 11)  # the last two come at once
    reason = f"it failed after {count} frames: CUDA_ERROR_INVALID_VALUE"
    assert reader.warnings == [f"NVDEC did not decode all of the video, software did the rest: {reason}"]
    assert reader.decoder == f"h264 in software (not NVDEC: {reason})"


def inverted(frame: av.VideoFrame) -> av.VideoFrame:
    changed = as_gpu_frame(frame)
    rows = np.frombuffer(memoryview(changed.planes[0]), np.uint8)
    rows[...] = 255 - rows
    return changed


def late(frame: av.VideoFrame) -> av.VideoFrame:
    changed = as_gpu_frame(frame)
    changed.pts = (changed.pts or 0) + 1
    return changed


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"change": inverted}, "dB only"),
        ({"change": late}, "has (width, height, pts) (128, 96, 1), the software decoder's (128, 96, 0)"),
        ({"change": lambda frame: frame.reformat(format="p016le")}, "it gives p016le for yuv420p"),
        ({"change": lambda frame: frame}, "it gives yuv420p for yuv420p"),
        ({"is_hwaccel": False}, "FFmpeg's decoder h264 has no CUDA path"),
        ({"fails_at": 0}, "CUDA_ERROR_INVALID_VALUE"),
    ],
    ids=["wrong-pixels", "wrong-time", "16-bit", "fallback", "no-hwaccel", "fails"],
)
def test_a_gpu_that_does_not_read_the_first_frame_is_not_used(
    tmp_path: Path, options: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Clip().write(tmp_path / "clip")
    opened = use_nvdec(monkeypatch, **options)
    frames, reader = read(path, "auto")
    assert opened[0].closed
    assert reason in reader.gpu_problem
    assert reader.decoder == f"h264 in software (not NVDEC: {reader.gpu_problem})"
    check_same(frames, path)
    with pytest.raises(UsageError, match="expected NVDEC to decode"):
        read(path, "cuda")


@WITHOUT_GPU
def test_without_a_driver_ffmpeg_says_so_and_software_decodes(tmp_path: Path) -> None:
    path = Clip().write(tmp_path / "clip")
    frames, reader = read(path, "auto")
    assert "CUDA" in reader.gpu_problem or "libcuda" in reader.gpu_problem
    check_same(frames, path)
    with pytest.raises(UsageError, match="--hwaccel be auto"):
        read(path, "cuda")


def test_a_codec_without_a_cuda_path_says_so(tmp_path: Path) -> None:
    path = Clip(codec="ffv1", suffix=".mkv").write(tmp_path / "clip")
    _, reader = read(path, "auto")
    assert reader.gpu_problem
    assert reader.decoder == f"ffv1 in software (not NVDEC: {reader.gpu_problem})"


@pytest.mark.needs_cuda
@pytest.mark.parametrize("clip", CLIPS)
def test_nvdec_gives_the_same_frames(tmp_path: Path, clip: str) -> None:
    path = CLIPS[clip].write(tmp_path / "clip")
    frames, reader = read(path, "cuda")
    assert reader.decoder.endswith("on NVDEC")
    check_same(frames, path)


def test_a_decoder_is_not_freed_while_the_log_of_ffmpeg_reaches_python(tmp_path: Path) -> None:
    """Its threads might be at logging and wait for the interpreter, which would wait for them."""
    with VideoReader(Clip().write(tmp_path / "clip")) as reader:
        closing = threading.Thread(target=reader.restart)
        with ErrorLog():
            closing.start()
            closing.join(0.3)
            waited = closing.is_alive()
        closing.join(30)
        assert (waited, closing.is_alive()) == (True, False)


def test_the_decoder_that_the_gpu_replaces_is_freed_while_nothing_reaches_python_from_ffmpegs_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet, freed = [False], list[bool]()

    @contextmanager
    def watched() -> Iterator[None]:
        with unlogged():
            quiet[0] = True
            yield
            quiet[0] = False

    def frames(genuine: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        try:
            yield from genuine
        finally:
            freed.append(quiet[0])

    use_nvdec(monkeypatch)
    monkeypatch.setattr("bsst.runtime.video.reader.unlogged", watched)
    with VideoReader(Clip().write(tmp_path / "clip")) as reader:
        reader._frames = frames(reader._frames)
        next(reader._frames)
        reader.accelerate("cuda")
        assert freed == [True]


def test_a_reader_that_is_left_has_no_threads(tmp_path: Path) -> None:
    path, process = Clip().write(tmp_path / "clip"), psutil.Process()
    before = process.num_threads()
    with VideoReader(path) as reader:
        next(iter(reader))
    assert process.num_threads() <= before
    assert reader.decoder == "h264"
