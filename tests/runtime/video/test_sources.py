"""What people bring: files that once crashed or came out wrong, each kind with its right value."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from bsst.errors import InputError
from bsst.runtime.job import deblur
from bsst.runtime.jobs.options import OutputFormat
from bsst.runtime.video.reader import VideoReader
from bsst.runtime.video.sound import AUDIO_CHOICES
from bsst.runtime.video.writer import VideoWriter
from tests.media import Clip, Identity, decode, moving_photograph


def seconds(path: Path) -> list[float]:
    with VideoReader(path) as reader:
        return [float(frame.pts * reader.info.time_base) for frame in reader]


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
    np.testing.assert_allclose(np.diff(seconds(source)), 0.04, atol=1e-9)
    assert "timestamp" not in warnings(source)


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


@pytest.mark.parametrize("audio", ["pcm_mulaw", "adpcm_ms", "adpcm_ima_wav"])
def test_sound_that_no_container_copies_is_converted_and_as_long(tmp_path: Path, audio: str) -> None:
    source = Clip(suffix=".avi", codec="mpeg4", times=tuple(range(12)), time_base=Fraction(1, 25), audio=audio).write(
        tmp_path / "clip"
    )
    result = deblur(source, plan=Identity())
    assert result.output.suffix == ".mkv"
    assert any(f"({audio}) is converted to flac" in warning for warning in result.warnings)
    lengths = []
    for path in (source, result.output):
        with av.open(str(path)) as container:
            lengths.append(sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0)))
    assert abs(lengths[0] - lengths[1]) < 0.02


def film_with_sound(path: Path, codec: str, layout: str, *, chunk: int = 24000, **options: str) -> Path:
    """Half a second; sound is encoded in pieces of `chunk` samples."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, rate=48000, options=options)
        sound.codec_context.layout = layout
        for index in range(12):
            frame = av.VideoFrame(64, 48, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([90]) * plane.buffer_size)
            frame.pts = index
            container.mux(video.encode(frame))
        samples = (np.sin(np.arange(24000) / 9) * 9000).astype(np.int16)
        interleaved = np.repeat(samples, sound.codec_context.layout.nb_channels).reshape(24000 // chunk, 1, -1)
        for index, part in enumerate(interleaved):
            piece = av.AudioFrame.from_ndarray(part, format="s16", layout=layout)
            piece.sample_rate, piece.pts = 48000, index * chunk
            container.mux(sound.encode(piece))
        for stream in (sound, video):
            container.mux(stream.encode(None))
    return path


def samples_in(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(frame.samples for frame in container.decode(audio=0))


def test_sound_of_more_packets_than_ticks_is_not_drawn_out(tmp_path: Path) -> None:
    source = film_with_sound(tmp_path / "clip.mkv", "pcm_s16le", "stereo", chunk=24)  # two packets a tick, as of TrueHD
    result = deblur(source, tmp_path / "out.mkv", Identity())
    ends = []
    for path in (source, result.output):
        with av.open(str(path)) as container:
            ends.append(max(packet.pts or 0 for packet in container.demux(audio=0)))
    assert ends[0] == ends[1]
    assert not any("overlapped" in warning for warning in result.warnings)


def test_what_a_decoder_of_sound_holds_back_is_converted_too(tmp_path: Path) -> None:
    source = film_with_sound(tmp_path / "clip.wmv", "wmav2", "stereo", b="128000")
    result = deblur(source, tmp_path / "out.mkv", Identity())
    assert samples_in(result.output) == samples_in(source)
    assert [warning for warning in result.warnings if "stream 1" in warning] == [
        "audio stream 1 (wmav2) is converted to flac: matroska cannot hold a copy"
    ]


def test_sound_with_speakers_at_the_sides_keeps_its_channels_in_webm(tmp_path: Path) -> None:
    source = film_with_sound(tmp_path / "clip.mkv", "ac3", "5.1(side)")
    result = deblur(source, tmp_path / "out.webm", Identity())
    with av.open(str(result.output)) as container:
        assert container.streams.audio[0].codec_context.layout.nb_channels == 6
        heard = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    assert all(np.abs(channel).max() > 0.05 for channel in heard)


def test_tta_whose_copy_cannot_be_decoded_becomes_flac(tmp_path: Path) -> None:
    result = deblur(film_with_sound(tmp_path / "clip.mkv", "tta", "stereo"), tmp_path / "out.mkv", Identity())
    assert samples_in(result.output) == 24000
    assert result.warnings == ("audio stream 1 (tta) is converted to flac: matroska cannot hold a copy",)


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


def broadcast(path: Path, layout: str, rate: int, *, first: int) -> bytes:
    """One second of film from frame `first` on, with a tone."""
    with av.open(str(path), "w", format="mpegts") as container:
        video, sound = container.add_stream("mpeg2video", rate=25), container.add_stream("mp2", rate=rate)
        video.width, video.height, video.pix_fmt, sound.layout = 64, 48, "yuv420p", layout
        for number, pixels in enumerate(moving_photograph(25, 48, 64), first):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        wave = (np.sin(np.arange(rate) / rate * 2 * np.pi * 440) * 9000).astype(np.int16)
        piece = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        piece.sample_rate, piece.pts, piece.time_base = rate, first * rate // 25, Fraction(1, rate)
        container.mux(sound.encode(piece))
        container.mux([*video.encode(None), *sound.encode(None)])
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".webm"])
def test_converted_sound_whose_rate_and_channels_change_goes_on_as_it_began(tmp_path: Path, suffix: str) -> None:
    kinds = [("stereo", 48000), ("mono", 44100), ("stereo", 48000)]
    parts = [broadcast(tmp_path / "part.ts", *kind, first=25 * place) for place, kind in enumerate(kinds)]
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    result = deblur(
        tmp_path / "joined.ts", tmp_path / f"out{suffix}", Identity(), output_format=OutputFormat(audio="convert")
    )
    assert not any("damaged" in warning for warning in result.warnings)
    with av.open(str(result.output)) as container:
        frames = list(container.decode(audio=0))
    assert {(frame.layout.name, frame.sample_rate) for frame in frames} == {("stereo", 48000)}
    assert sum(frame.samples for frame in frames) / 48000 == pytest.approx(3, abs=0.1)
    sound = np.concatenate([frame.to_ndarray().reshape(-1)[::7].astype(float) for frame in frames])
    third = len(sound) // 3
    level = [np.sqrt(np.mean(sound[third * place + 999 : third * (place + 1) - 999] ** 2)) for place in range(3)]
    assert level == pytest.approx([level[0]] * 3, rel=0.1)


def overlapping_sound(path: Path) -> Path:
    """Eight pieces of sound of 0.25 s, each 0.05 s after the one before."""
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("libx264", rate=25), container.add_stream("pcm_s16le", rate=8000)
        video.width, video.height, video.pix_fmt, sound.layout = 64, 48, "yuv420p", "mono"
        for number, pixels in enumerate(moving_photograph(12, 48, 64)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for number in range(8):
            wave = (np.sin(np.arange(2000) / 9) * 9000).astype(np.int16)
            piece = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = 8000, 400 * number, Fraction(1, 8000)
            container.mux(sound.encode(piece))
    return path


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_converted_sound_whose_parts_overlap_is_kept_whole(tmp_path: Path, suffix: str) -> None:
    source, out = overlapping_sound(tmp_path / "clip.mkv"), tmp_path / f"out{suffix}"
    result = deblur(source, out, Identity(), output_format=OutputFormat(audio="convert"))
    assert "7 packets of stream 1 overlapped others and start later" in result.warnings
    with av.open(str(out)) as container:
        length = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    assert length == pytest.approx(2, abs=0.2)  # AAC pads


@pytest.mark.parametrize("worst", ["copy", "convert"])
def test_sound_that_a_container_refuses_at_the_end_does_not_cost_the_film(
    tmp_path: Path, worst: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`worst`: up to which way of keeping sound the file cannot be closed."""

    def refuse(writer: VideoWriter, frame: object) -> None:
        if AUDIO_CHOICES.index(writer._audio) <= AUDIO_CHOICES.index(worst):
            raise av.error.InvalidDataError(-1, "Invalid data")

    monkeypatch.setattr(VideoWriter, "_encode", refuse)  # what is left in the encoder of the film: nothing
    source = Clip(audio="aac", times=tuple(range(12)), time_base=Fraction(1, 25)).write(tmp_path / "clip")
    restorer = Identity()
    result = deblur(source, tmp_path / "out.mp4", restorer)
    clips = restorer.clips
    deblur(source, tmp_path / "silent.mkv", once := Identity(), output_format=OutputFormat(audio="none"))
    assert clips == once.clips
    assert decode(result.output).stream["kinds"] == (["video", "audio"] if worst == "copy" else ["video"])
    assert "the sound is converted, mp4 cannot hold it so: Invalid data" in result.warnings
    assert ("the sound is left out, mp4 cannot hold it so: Invalid data" in result.warnings) == (worst == "convert")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.mp4", "silent.mkv"]
