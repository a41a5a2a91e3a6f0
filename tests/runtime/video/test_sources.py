"""What people bring: files that once crashed or came out wrong, each kind with its right value."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from bsst.errors import InputError
from bsst.runtime.job import deblur
from bsst.runtime.video.reader import VideoReader
from tests.media import Clip, Identity, decode, moving_photograph


def warnings(path: Path) -> str:
    with VideoReader(path) as reader:
        for _ in reader:
            pass
        return "; ".join(reader.warnings)


def raw(path: Path, pixel_format: str, frames: list[np.ndarray], *, color_range: int = 0) -> Path:
    """Frames (H, W, 3) uint8 in a file that stores them as they are."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=10)
        stream.height, stream.width, stream.pix_fmt = frames[0].shape[0], frames[0].shape[1], pixel_format
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
            frame.color_range = color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def exif_jpeg(path: Path) -> Path:
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.full((96, 128, 3), 90, np.uint8), format="rgb24")
        container.mux(stream.encode(frame.reformat(format="yuvj420p")))
        container.mux(stream.encode(None))
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, 6, 0)  # orientation 6: turned
    segment = b"Exif\0\0" + tiff
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:])
    return path


def test_frames_with_side_data_that_pyav_has_no_name_for_are_read_and_stay_turned(tmp_path: Path) -> None:
    with VideoReader(exif_jpeg(tmp_path / "photo.jpg")) as reader:
        assert len(list(reader)) == 1
        assert reader.info.display_matrix is not None
        assert reader.info.display_matrix[:2] == (0, 65536)


@pytest.mark.parametrize(("pixel_format", "limit"), [("gray", 0), ("gray16le", 1), ("rgb555le", 0), ("rgb565le", 0)])
def test_grey_and_few_bits_have_the_levels_that_ffmpeg_shows(tmp_path: Path, pixel_format: str, limit: int) -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 48, 0).repeat(3, 2)
    ramp[:8] = 255
    source = raw(tmp_path / "ramp.nut", pixel_format, [ramp] * 2)
    with av.open(str(source)) as container:
        shown = next(container.decode(video=0)).to_ndarray(format="rgb24").transpose(2, 0, 1)
    with VideoReader(source) as reader:
        frame = next(iter(reader)).rgb
    assert abs(np.rint(frame * 255) - shown).max() <= limit
    assert frame[:, :8].min() == 1


def test_a_still_picture_before_the_film_is_not_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "poster.mkv"
    with av.open(str(path), "w") as container:
        poster = container.add_stream("mjpeg", rate=25)
        film = container.add_stream("libx264", rate=25)
        for stream, size in ((poster, (192, 256)), (film, (96, 128))):
            stream.height, stream.width = size
        poster.pix_fmt, film.pix_fmt = "yuvj420p", "yuv420p"
        for stream, count, size in ((poster, 1, (192, 256, 3)), (film, 5, (96, 128, 3))):
            for _ in range(count):
                frame = av.VideoFrame.from_ndarray(np.zeros(size, np.uint8), format="rgb24")
                container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
            container.mux(stream.encode(None))
    result = deblur(path, plan=Identity())
    assert (result.frames, decode(result.output).stream["size"]) == (5, (96, 128))
    assert "video stream 0 (mjpeg) is not kept" in result.warnings


def unknown_codec(data: bytes) -> bytes:
    return data.replace(b"mp4a", b"apac").replace(b"esds", b"dapa")


def test_a_stream_without_a_codec_is_named_and_the_rest_kept(tmp_path: Path) -> None:
    source = Clip(suffix=".mov", audio="aac").write(tmp_path / "clip")
    source.write_bytes(unknown_codec(source.read_bytes()))
    result = deblur(source, plan=Identity())
    assert "audio stream 1 (unknown codec) is not kept" in result.warnings
    assert result.frames == 12


def header_of_three_times_its_length(data: bytearray) -> None:
    for box, offset in ((b"avih", 16), (b"strh", 32)):
        place = data.find(box) + 8 + offset
        struct.pack_into("<I", data, place, 3 * struct.unpack_from("<I", data, place)[0])


def test_a_film_that_ffmpeg_cannot_decode_is_told_from_none(tmp_path: Path) -> None:
    source = Clip(audio="aac").write(tmp_path / "clip")
    source.write_bytes(source.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(InputError, match="found audio, video of an unknown codec; give a video file"):
        VideoReader(source)


def test_a_whole_avi_with_a_wrong_header_runs_and_a_cut_one_is_refused(tmp_path: Path) -> None:
    clip = Clip(
        suffix=".avi", codec="mjpeg", pixel_format="yuvj420p", times=tuple(range(25)), time_base=Fraction(1, 25)
    )
    source = clip.write(tmp_path / "clip")
    data = bytearray(source.read_bytes())
    header_of_three_times_its_length(data)
    source.write_bytes(data)
    assert "the header says 3.00 s, the file is whole and holds 1.00 s" in warnings(source)
    source.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="truncated"):
        VideoReader(source)


def test_place_date_and_maker_of_a_phone_are_kept(tmp_path: Path) -> None:
    kept = {
        "com.apple.quicktime.location.ISO6709": "+37.7858-122.4064+010.5/",
        "com.apple.quicktime.creationdate": "2024-06-28T17:15:03+0100",
        "com.apple.quicktime.make": "Apple",
    }
    path = tmp_path / "phone.mov"
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = 96, 128
        container.metadata.update(kept)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame(128, 96, "yuv420p")))
        container.mux(stream.encode(None))
    for out in ("a.mov", "b.mp4", "c.mkv"):
        result = deblur(path, tmp_path / out, plan=Identity())
        with av.open(str(result.output)) as container:
            found = {key.lower(): value for key, value in container.metadata.items()}
        assert {key.lower(): value for key, value in kept.items()}.items() <= found.items()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("live.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{}\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile {}\n"),
        ("renamed.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{}\n#EXT-X-ENDLIST\n"),
        ("session.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
                        "a=rtpmap:96 H264/90000\n"),
    ],
)  # fmt: skip
def test_a_list_of_other_files_is_refused_with_a_remedy(tmp_path: Path, name: str, text: str) -> None:
    part = Clip(suffix=".ts").write(tmp_path / "part")
    path = tmp_path / name
    path.write_text(text.format(part.name))
    with pytest.raises(InputError, match="a list that names other files"):
        VideoReader(path)


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda folder: folder, r"make a video of its pictures first: ffmpeg .*%05d\.png"),
        (lambda folder: folder / "%05d.png", "found a pattern of names"),
        (lambda folder: Path("-"), "found a pipe"),
        (lambda folder: Path("https://example.com/a.mp4"), "curl -LO 'https://example.com/a.mp4'"),
    ],
    ids=["folder", "pattern", "pipe", "address"],
)
def test_what_is_no_file_is_refused_with_the_command_that_makes_one(
    tmp_path: Path, make: Callable[[Path], Path], remedy: str
) -> None:
    with pytest.raises(InputError, match=remedy):
        VideoReader(make(tmp_path))


def test_an_animated_webp_is_read_or_refused_with_a_command_that_makes_something_of_it(tmp_path: Path) -> None:
    path = tmp_path / "it's.webp"
    pictures = [Image.fromarray(pixels) for pixels in moving_photograph(4, 24, 32)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=80, lossless=True)
    refusal = ""
    try:
        with VideoReader(path):
            pass
    except InputError as error:
        refusal = str(error)
    if refusal:  # FFmpeg as PyAV 18 has it; with PyAV 19 it decodes them
        assert "an animated WebP, which this FFmpeg cannot decode" in refusal
        command = f"cd {tmp_path} && {sys.executable}{refusal.split('Pillow: python')[1]}"
        subprocess.run(command, shell=True, check=True)
        path = tmp_path / "clip.apng"
    with VideoReader(path) as reader:
        frames = list(reader)
    for frame, pixels in zip(frames, moving_photograph(4, 24, 32), strict=True):
        np.testing.assert_allclose(frame.rgb.transpose(1, 2, 0), pixels / 255, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_what_decoders_log_about_damage_is_not_printed(
    tmp_path: Path, seed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = Clip(suffix=".avi", codec="mpeg4", options={"g": "4"}).write(tmp_path / "clip")
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            for _ in range(3 if packet.size else 0):  # behind the header, where blocks are
                data[packet.pos + int(rng.integers(packet.size // 4, packet.size))] ^= 16
    path.write_bytes(data)
    assert "damaged in the source" in warnings(path)
    assert capfd.readouterr() == ("", "")
