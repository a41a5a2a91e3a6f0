"""Whole files through an identity restorer: nothing but pixels may change, and those not either."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from bsst.errors import UsageError
from bsst.runtime.job import deblur
from bsst.runtime.jobs.options import OutputFormat
from bsst.runtime.video.sound import Audio
from tests.media import FULL, LIMITED, TAG_BT601, TAG_BT709, TAG_UNSPECIFIED, Clip, Identity, decode

TICK = 512
EVEN = tuple(range(0, 12 * TICK, TICK))
UNEVEN = tuple(TICK * t for t in (0, 1, 2, 4, 5, 9, 10, 11, 17, 18))
LATE = tuple(range(20 * TICK, 30 * TICK, TICK))

CODECS = {
    "h264-b-frames": Clip(options={"bf": "3", "x264-params": "b-adapt=0"}),
    "h264-baseline": Clip(options={"profile": "baseline"}),
    "hevc": Clip(codec="libx265", options={"x265-params": "log-level=none:bframes=3"}),
    "vp9": Clip(codec="libvpx-vp9", suffix=".webm", options={"lag-in-frames": "8", "cpu-used": "8"}),
    "mpeg4": Clip(codec="mpeg4", suffix=".mkv", options={"bf": "2"}, time_base=Fraction(1, 12800)),
    "ffv1": Clip(codec="ffv1", suffix=".mkv"),
    "prores": Clip(codec="prores_ks", suffix=".mov", pixel_format="yuv422p10le"),
}


def check(source: Path, result: Path, *, lossless_planes: bool = True, tolerance: Fraction = Fraction(1, 1000)) -> None:
    before, after = decode(source), decode(result)
    assert len(after.seconds) == len(before.seconds)
    assert max(abs(a - b) for a, b in zip(after.seconds, before.seconds, strict=True)) <= tolerance
    for key in ("size", "matrix", "range", "rotation", "aspect", "kinds", "language", "title"):
        assert after.stream[key] == before.stream[key], key
    assert after.audio == before.audio
    if lossless_planes:
        assert after.stream["format"] == before.stream["format"]
        for a, b in zip(after.planes, before.planes, strict=True):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("times", [EVEN, UNEVEN, LATE], ids=["constant", "variable", "start-offset"])
@pytest.mark.parametrize("codec", CODECS)
def test_frames_times_and_pixels_survive(tmp_path: Path, codec: str, times: tuple[int, ...]) -> None:
    recipe = CODECS[codec]
    source = Clip(**{**vars(recipe), "times": times}).write(tmp_path / "clip")
    result = deblur(source, plan=Identity(), output_format=OutputFormat(lossless=True))
    assert result.output == source.with_name(f"clip.deblurred{source.suffix}")
    assert (result.frames, result.repaired) == (len(times), 0)
    check(source, result.output)


@pytest.mark.parametrize("size", [(97, 131), (96, 131), (33, 96)], ids=str)
@pytest.mark.parametrize("codec", ["vp9", "mpeg4", "ffv1"])
def test_odd_sizes_survive(tmp_path: Path, codec: str, size: tuple[int, int]) -> None:
    source = Clip(**{**vars(CODECS[codec]), "size": size}).write(tmp_path / "clip")
    result = deblur(source, plan=Identity(), output_format=OutputFormat(lossless=True))
    check(source, result.output)


def test_odd_sizes_become_444_in_h264(tmp_path: Path) -> None:
    source = Clip(**{**vars(CODECS["ffv1"]), "size": (65, 97)}).write(tmp_path / "clip")
    result = deblur(source, tmp_path / "out.mp4", plan=Identity(), output_format=OutputFormat(lossless=True))
    check(source, result.output, lossless_planes=False)
    before, after = decode(source), decode(result.output)
    assert after.stream["format"] == "yuv444p"
    for a, b in zip(after.planes, before.planes, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1][::2, ::2], b[1])


# Every pair of format, size, range and tag: two complementary cases for each format.
COLOURS = [
    (pixel_format, *(choice ^ flip for choice in choices))
    for pixel_format, choices in {
        "yuv420p": (0, 0, 0),
        "yuv422p": (0, 0, 1),
        "yuv444p": (0, 1, 0),
        "yuv420p10le": (0, 1, 1),
        "yuv444p10le": (0, 0, 0),
    }.items()
    for flip in (0, 1)
]


@pytest.mark.parametrize(("pixel_format", "large", "full", "tagged"), COLOURS)
def test_colour_tags_depth_and_pixels_survive(
    tmp_path: Path, pixel_format: str, large: int, full: int, tagged: int
) -> None:
    size = (720, 64) if large else (96, 128)
    source = Clip(
        pixel_format=pixel_format,
        size=size,
        matrix=(TAG_BT709 if size[0] < 720 else TAG_BT601) if tagged else TAG_UNSPECIFIED,  # against the rule
        range=FULL if full else LIMITED,
        times=EVEN[:6],
        options={"crf": "8"},
    ).write(tmp_path / "clip")
    result = deblur(source, plan=Identity(), output_format=OutputFormat(lossless=True))
    check(source, result.output)


def test_unsupported_depths_are_named_and_kept_in_matroska(tmp_path: Path) -> None:
    source = Clip(codec="ffv1", suffix=".mkv", pixel_format="yuv422p12le").write(tmp_path / "clip")
    kept = deblur(source, tmp_path / "kept.mkv", plan=Identity(), output_format=OutputFormat(lossless=True))
    check(source, kept.output)
    assert kept.warnings == ()
    reduced = deblur(source, tmp_path / "reduced.mp4", plan=Identity())
    assert decode(reduced.output).stream["format"] == "yuv422p10le"
    assert any("10 of the source's 12 bits" in warning for warning in reduced.warnings)


@pytest.mark.parametrize("pixel_format", ["bgr0", "gbrp10le", "rgb48le"])
def test_rgb_sources_survive(tmp_path: Path, pixel_format: str) -> None:
    source = Clip(codec="ffv1", suffix=".mkv", pixel_format=pixel_format, matrix=0, range=FULL).write(tmp_path / "clip")
    exact = deblur(source, tmp_path / "exact.mkv", plan=Identity(), output_format=OutputFormat(lossless=True))
    _same_rgb(source, exact.output, tolerance=0)
    usual = deblur(source, tmp_path / "usual.mp4", plan=Identity(), output_format=OutputFormat(lossless=True))
    _same_rgb(source, usual.output, tolerance=2)


@pytest.mark.parametrize("pixel_format", ["gray", "gray10le"])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("tag", [LIMITED, FULL], ids=["limited", "full"])
def test_grey_sources_get_neutral_chroma(tmp_path: Path, pixel_format: str, suffix: str, tag: int) -> None:
    source = Clip(codec="ffv1", suffix=".mkv", pixel_format=pixel_format, range=tag).write(tmp_path / "clip")
    result = deblur(source, tmp_path / f"out{suffix}", plan=Identity(), output_format=OutputFormat(lossless=True))
    neutral = 128 if pixel_format == "gray" else 512
    before, after = decode(source), decode(result.output)
    assert after.stream["range"] == before.stream["range"]
    for a, b in zip(after.planes, before.planes, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert (a[1] == neutral).all()
        assert (a[2] == neutral).all()


def _same_rgb(source: Path, result: Path, *, tolerance: int) -> None:
    frames = [
        [f.to_ndarray(format="rgb24").astype(int) for f in av.open(str(p)).decode(video=0)] for p in (source, result)
    ]
    for a, b in zip(*frames, strict=True):
        assert np.abs(a - b).max() <= tolerance


def test_default_encoding_is_visually_lossless(tmp_path: Path) -> None:
    source = Clip(size=(288, 352), options={"crf": "10"}).write(tmp_path / "clip")
    result = deblur(source, plan=Identity())
    check(source, result.output, lossless_planes=False)
    for a, b in zip(decode(result.output).planes, decode(source).planes, strict=True):
        assert 10 * np.log10(255**2 / np.mean((a[0] - b[0]) ** 2)) > 40


AUDIO = {
    "mp4-aac": Clip(audio="aac"),
    "mov-pcm": Clip(audio="pcm_s16le", suffix=".mov"),
    "mkv-opus": Clip(audio="libopus", suffix=".mkv", time_base=Fraction(1, 1000), times=tuple(range(0, 480, 40))),
    "webm-opus": Clip(audio="libopus", suffix=".webm", codec="libvpx-vp9", options={"cpu-used": "8"}),
    "mp4-late": Clip(audio="aac", times=LATE),
    "mp4-uneven": Clip(audio="aac", times=UNEVEN, options={"bf": "3"}),
}


@pytest.mark.parametrize("recipe", AUDIO)
def test_audio_is_copied(tmp_path: Path, recipe: str) -> None:
    source = AUDIO[recipe].write(tmp_path / "clip")
    result = deblur(source, plan=Identity(), output_format=OutputFormat(lossless=True))
    check(source, result.output)
    assert len(decode(result.output).audio) > 5
    assert result.warnings == ()


def test_audio_that_the_container_cannot_hold_is_converted_with_a_warning(tmp_path: Path) -> None:
    source = AUDIO["mp4-aac"].write(tmp_path / "clip")
    result = deblur(source, tmp_path / "out.webm", plan=Identity())
    assert "audio stream 1 (aac) is converted to opus: webm cannot hold a copy" in result.warnings
    with av.open(str(result.output)) as container:
        sound = [frame for frame in container.decode(audio=0)]
        assert container.streams.audio[0].codec_context.name == "opus"
    with av.open(str(source)) as container:
        before = [frame for frame in container.decode(audio=0)]
    seconds = [sum(f.samples / f.sample_rate for f in frames) for frames in (before, sound)]
    assert abs(seconds[0] - seconds[1]) < 0.05


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_sound_of_windows_is_converted_and_says_the_same(tmp_path: Path, suffix: str) -> None:
    source = Clip(
        suffix=".avi", codec="mpeg4", audio="adpcm_ms", time_base=Fraction(1, 25), times=tuple(range(12))
    ).write(tmp_path / "clip")
    result = deblur(source, tmp_path / f"out{suffix}", plan=Identity())
    codec = "flac" if suffix == ".mkv" else "aac"
    assert any(f"audio stream 1 (adpcm_ms) is converted to {codec}" in warning for warning in result.warnings)
    before, after = samples(source), samples(result.output)
    if codec == "flac":
        np.testing.assert_array_equal(after, before)
    else:
        lag = 1024  # of AAC's first packet, which an edit list may hide
        best = min(range(-lag, lag + 1, 8), key=lambda k: np.abs(after[lag + k :][:4000] - before[lag:][:4000]).mean())
        assert abs(best) <= 16
        assert np.abs(after[lag + best :][:4000] - before[lag:][:4000]).mean() < 400


@pytest.mark.parametrize(("audio", "codecs"), [("convert", ["aac"]), ("none", [])])
def test_sound_is_converted_or_left_out_when_told(tmp_path: Path, audio: Audio, codecs: list[str]) -> None:
    source = Clip(suffix=".mov", audio="pcm_s16le").write(tmp_path / "clip")
    result = deblur(source, plan=Identity(), output_format=OutputFormat(audio=audio))
    with av.open(str(result.output)) as container:
        assert [stream.codec_context.name for stream in container.streams.audio] == codecs
    assert result.warnings == (("audio stream 1 (pcm_s16le) is converted to aac",) if codecs else ())
    with pytest.raises(UsageError, match="expected audio to be one of copy, convert, none, got loud"):
        deblur(source, tmp_path / "x.mov", plan=Identity(), output_format=OutputFormat(audio="loud"))  # type: ignore[arg-type]


def samples(path: Path) -> np.ndarray:
    """Sound of a file as 16-bit integers, (samples,) float32."""
    with av.open(str(path)) as container:
        to_16_bits = av.AudioResampler(format="s16", layout="mono")
        frames = [part for frame in container.decode(audio=0) for part in to_16_bits.resample(frame)]
        return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "mov_text"), (".mkv", "subrip")])
def test_subtitles_are_copied_or_named(tmp_path: Path, suffix: str, codec: str) -> None:
    source = Clip(suffix=suffix, subtitles=codec, audio="aac").write(tmp_path / "clip")
    same = deblur(source, plan=Identity())
    assert decode(same.output).stream["kinds"] == ["video", "audio", "subtitle"]
    assert same.warnings == ()
    other = deblur(source, tmp_path / ("other.mkv" if suffix == ".mp4" else "other.mp4"), plan=Identity())
    assert decode(other.output).stream["kinds"] == ["video", "audio"]
    assert any("subtitle stream 2 (" in warning for warning in other.warnings)


@pytest.mark.parametrize("rotation", [90, 180, 270])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_rotation_survives(tmp_path: Path, suffix: str, rotation: int) -> None:
    source = Clip(suffix=suffix, rotation=rotation).write(tmp_path / "clip")
    assert decode(source).stream["rotation"] == rotation
    check(
        source,
        deblur(source, plan=Identity(), output_format=OutputFormat(lossless=True)).output,
        lossless_planes=suffix != ".mkv",
    )


def test_raw_dv_from_a_tape_can_be_written_as_mp4(tmp_path: Path) -> None:
    video = Clip(suffix=".dv", codec="dvvideo", size=(576, 720), times=(0, 1, 2), time_base=Fraction(1, 25)).write(
        tmp_path / "tape"
    )
    assert deblur(video, tmp_path / "out.mp4", plan=Identity()).frames == 3


def test_pixel_aspect_survives_or_is_named(tmp_path: Path) -> None:
    source = Clip(aspect=Fraction(4, 3)).write(tmp_path / "clip")
    same = deblur(source, plan=Identity(), output_format=OutputFormat(lossless=True))
    assert decode(source).stream["aspect"] == Fraction(4, 3)
    check(source, same.output)
    assert same.warnings == ()
    other = deblur(source, tmp_path / "other.mkv", plan=Identity())
    assert any("pixel aspect ratio 4:3" in warning for warning in other.warnings)
