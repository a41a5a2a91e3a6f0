"""Sound of what people bring: what is copied, what is converted, and that none of it gets longer or shorter."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from bsst.runtime.job import deblur
from bsst.runtime.jobs.options import OutputFormat
from bsst.runtime.video.sound import AUDIO_CHOICES
from bsst.runtime.video.writer import VideoWriter
from tests.media import Clip, Identity, decode, moving_photograph


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
