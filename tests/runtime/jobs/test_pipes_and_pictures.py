"""Pipes and folders of pictures: the same frames as from file to file, and one line for what is wrong with them."""

from __future__ import annotations

import io
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from bsst import Part
from bsst.errors import InputError, OutputError, UsageError
from bsst.runtime.job import deblur
from bsst.runtime.jobs.options import OutputFormat
from bsst.runtime.video.pictures import natural
from bsst.runtime.video.pipes import PipeWriter
from bsst.runtime.video.reader import VideoReader
from tests.media import Clip, Identity, decode

TIMES = tuple(range(0, 9 * 512, 512))


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False))


def y4m(path: Path) -> bytes:
    file = io.BytesIO()
    with VideoReader(path) as reader, PipeWriter(file, "y4m", reader.info) as writer:
        for frame in reader:
            writer.write(frame.rgb, pts=frame.pts, duration=frame.duration)
    return file.getvalue()


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le"])
@pytest.mark.parametrize("name", ["y4m", "nut", "mkv"])
def test_frames_pass_through_pipes_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any, name: Any, pixel_format: str
) -> None:
    source = Clip(suffix=".mkv", codec="ffv1", pixel_format=pixel_format, times=TIMES, size=(33, 97))
    path = source.write(tmp_path / "clip")
    piped(monkeypatch, y4m(path))
    result = deblur("-", "-", Identity(), output_format=OutputFormat(pipe_format=name))
    assert result.frames == len(TIMES)
    (tmp_path / "out").write_bytes(capfdbinary.readouterr().out)
    before, after = decode(path), decode(tmp_path / "out")
    assert [round(float(s), 2) for s in after.seconds] == [round(float(s), 2) for s in before.seconds]
    for a, b in zip(after.planes, before.planes, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_a_part_of_a_file_goes_to_a_pipe_and_a_pipe_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any
) -> None:
    path = Clip(suffix=".mkv", codec="ffv1", times=TIMES, audio="aac").write(tmp_path / "clip")
    deblur(path, "-", Identity(), part=Part.of(start=0.08, end=0.24), output_format=OutputFormat(pipe_format="y4m"))
    piped(monkeypatch, capfdbinary.readouterr().out)
    result = deblur("-", tmp_path / "part.mkv", Identity(), output_format=OutputFormat(lossless=True))
    assert result.frames == 4
    for a, b in zip(decode(result.output).planes, decode(path).planes[2:6], strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mkv", "part.mkv"]


def test_broken_pipes_are_told_from_the_end_of_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Clip(suffix=".mkv", codec="ffv1", times=TIMES).write(tmp_path / "clip")
    for data in (b"", b"no video", y4m(path)[:-100]):
        piped(monkeypatch, data)
        with pytest.raises(InputError, match="standard input"):
            deblur("-", tmp_path / "out.mkv", Identity())
    piped(monkeypatch, y4m(path))
    with pytest.raises(UsageError, match="expected a file for --start"):
        deblur("-", tmp_path / "out.mkv", Identity(), part=Part.of(start=1))
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mkv"]

    class Closed(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 20_000:
                raise BrokenPipeError
            return super().write(data)

    def write_all() -> None:
        with VideoReader(path) as reader, PipeWriter(Closed(), "nut", reader.info) as writer:
            for frame in reader:
                writer.write(frame.rgb, pts=frame.pts, duration=frame.duration)

    with pytest.raises(OutputError, match="it stopped after"):
        write_all()


def pictures(folder: Path, suffix: str, pixel_format: str, *, count: int = 8, first: int = 8) -> Path:
    """Numbered without zeros, so that their order is not that of their letters."""
    folder.mkdir()
    clip = Clip(suffix=".mkv", codec="ffv1", size=(48, 65), times=TIMES[:count]).write(folder.with_name("made"))
    codec = {".png": "png", ".tif": "tiff", ".jpg": "mjpeg"}[suffix]
    with av.open(str(clip)) as container:
        for index, frame in enumerate(container.decode(video=0), first):
            context: Any = av.CodecContext.create(codec, "w")
            context.width, context.height, context.pix_fmt = 65, 48, pixel_format
            context.time_base, context.color_range = Fraction(1, 25), 2
            picture = frame.reformat(format=pixel_format, dst_color_range=2)
            picture.pts = 0
            data = b"".join(bytes(packet) for packet in [*context.encode(picture), *context.encode(None)])
            (folder / f"{index}{suffix}").write_bytes(data)
    clip.unlink()
    return folder


def rgb(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return frame.to_ndarray(format="rgb48le" if "48" in frame.format.name else "rgb24").astype(int)


@pytest.mark.parametrize(
    ("suffix", "pixel_format", "tolerance"),
    [(".png", "rgb24", 0), (".png", "rgb48be", 0), (".tif", "rgb48le", 0), (".jpg", "yuvj420p", 6)],
)
def test_pictures_keep_names_values_and_depth(tmp_path: Path, suffix: str, pixel_format: str, tolerance: int) -> None:
    folder = pictures(tmp_path / "clip", suffix, pixel_format)
    result = deblur(folder, plan=Identity())
    assert result.output == tmp_path / "clip.deblurred"
    names = [f"{index}{suffix}" for index in range(8, 16)]
    assert sorted((p.name for p in result.output.iterdir()), key=lambda n: natural(Path(n))) == names
    for name in names:
        before, after = rgb(folder / name), rgb(result.output / name)
        assert after.shape == before.shape
        assert np.abs(after - before).mean() <= tolerance / 4
        assert np.abs(after - before).max() <= tolerance * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip", "clip.deblurred"]


def test_pictures_become_a_video_of_their_rate_and_a_video_pictures(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "clip", ".png", "rgb24")
    video = deblur(
        folder / "%d.png",
        tmp_path / "out.mkv",
        Identity(),
        output_format=OutputFormat(lossless=True),
        rate=Fraction(10),
    ).output
    assert float(decode(video).seconds[-1]) == pytest.approx(0.7, abs=0.001)
    with pytest.raises(UsageError, match="expected a rate for pictures only"):
        deblur(video, tmp_path / "x.mkv", Identity(), rate=Fraction(10))
    result = deblur(video, tmp_path / "back" / "%04d.png", Identity(), part=Part.of(start=0.2))
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == [f"{n:04}.png" for n in range(1, 7)]
    assert result.frames == 6
    for n in range(1, 7):
        np.testing.assert_array_equal(rgb(tmp_path / "back" / f"{n:04}.png"), rgb(folder / f"{n + 9}.png"))
    with pytest.raises(OutputError, match="expected nothing or an empty folder"):
        deblur(video, tmp_path / "back" / "%04d.png", Identity())


def test_folders_that_are_no_clip_are_refused_in_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    gap = pictures(tmp_path / "gap", ".png", "rgb24", count=4)
    (gap / "9.png").unlink()
    mixed = pictures(tmp_path / "mixed", ".png", "rgb24", count=2)
    (mixed / "a.jpg").write_bytes(b"")
    sizes = pictures(tmp_path / "sizes", ".png", "rgb24", count=2)
    other = pictures(tmp_path / "other", ".png", "rgb24", count=2)
    with av.open(str(other / "8.png")) as container:
        context: Any = av.CodecContext.create("png", "w")
        context.width, context.height, context.pix_fmt, context.time_base = 64, 48, "rgb24", Fraction(1, 25)
        small = next(container.decode(video=0)).reformat(width=64)
        (sizes / "10.png").write_bytes(b"".join(bytes(p) for p in [*context.encode(small), *context.encode(None)]))
    torn = pictures(tmp_path / "torn", ".png", "rgb24", count=2)
    (torn / "10.png").write_bytes(b"")
    expected = {empty: "found none", gap: "10.png follows 8.png", mixed: "of one kind", sizes: "48x64 .* in 10.png",
                torn: "10.png", tmp_path / "none" / "%d.png": "check the name"}  # fmt: skip
    for folder, words in expected.items():
        with pytest.raises(InputError, match=words):
            deblur(folder, tmp_path / "out.mkv", Identity())
    assert not (tmp_path / "out.mkv").exists()
