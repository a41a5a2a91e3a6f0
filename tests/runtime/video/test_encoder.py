"""Encoding on a GPU: what NVENC is asked for, what it must prove, and software with the reason. Not run here: a GPU.

`tests/runtime/video/fake_video.py` puts software encoders in NVENC's place, but for the refusal without a driver.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from bsst.errors import UsageError
from bsst.runtime.job import deblur
from bsst.runtime.jobs.options import Execution, OutputFormat
from bsst.runtime.jobs.report import Observer
from bsst.runtime.video import encoder as encoder_av
from bsst.runtime.video.colour import Encoding, rgb_from_planes
from bsst.runtime.video.encoder import (
    EncoderSettings,
    add_video_stream,
    choose_encoder,
    encoder_problem,
    frame_from_rgb,
    nvenc_settings,
    software_settings,
)
from bsst.runtime.video.facts import Tags, VideoInfo
from bsst.runtime.video.quality import DEFAULT_CRF
from tests.media import FULL, LIMITED, TAG_BT709, Clip, Identity, decode
from tests.runtime.video.fake_video import in_software, use_nvdec, use_nvenc
from tests.runtime.video.test_reader import WITHOUT_GPU

UNEVEN = tuple(512 * t for t in (0, 1, 2, 4, 5, 9, 10, 11, 17, 18))


def info(bits: int = 8, subsampling: tuple[int, int] = (2, 2), size: tuple[int, int] = (96, 162)) -> VideoInfo:
    return VideoInfo(
        height=size[0],
        width=size[1],
        encoding=Encoding(matrix="bt709", full_range=True, bits=bits, subsampling=subsampling),
        tags=Tags(matrix=TAG_BT709, range=FULL, primaries=1, transfer=1),
        time_base=Fraction(1, 90000),
        rate=Fraction(30000, 1001),
        frames=0,
        sample_aspect_ratio=None,
        display_matrix=None,
    )


def nvenc(container: str = "mp4", *, bits: int = 8, lossless: bool = False, crf: int = 16) -> EncoderSettings:
    return nvenc_settings(container, software_settings(container, info(bits), lossless=lossless, crf=crf), crf=crf)


@pytest.mark.parametrize("lossless", [False, True], ids=["lossy", "lossless"])
@pytest.mark.parametrize(("bits", "codec"), [(8, "h264_nvenc"), (10, "hevc_nvenc")])
def test_ffmpeg_knows_every_option_and_value_given_to_nvenc(bits: int, codec: str, lossless: bool) -> None:
    settings = nvenc(bits=bits, lossless=lossless)
    assert settings.codec == codec
    assert settings.pixel_format in {f.name for f in av.Codec(codec, "w").video_formats or ()}
    known = av.CodecContext.create(codec, "w").supported_options
    options = {option.name: option for option in (*known.generic, *known.private)}
    for name, value in settings.options.items():
        choices = {choice.name for choice in options[name].choices}
        assert value in choices if choices else options[name].min <= float(value) <= options[name].max


def test_quality_and_depth_follow_the_job() -> None:
    assert nvenc(crf=23).options["cq"] == "23"
    assert nvenc(crf=0).options["cq"] == "1"  # 0 would leave the choice to NVENC
    assert nvenc(lossless=True).options == {"preset": "p6", "tune": "lossless"}
    deep = nvenc("matroska", bits=12)
    assert (deep.codec, deep.pixel_format, deep.encoding.bits, deep.codec_tag) == ("hevc_nvenc", "p010le", 10, "")
    assert nvenc("mov", bits=10).codec_tag == "hvc1"


@pytest.mark.parametrize("full", [True, False], ids=["full", "limited"])
@pytest.mark.parametrize("size", [(96, 162), (50, 146), (2, 2)], ids=str)
def test_ten_bits_reach_p010_unchanged(size: tuple[int, int], full: bool) -> None:
    source = info(10, size=size)
    encoding = dataclasses.replace(source.encoding, full_range=full)
    tags = dataclasses.replace(source.tags, range=FULL if full else LIMITED)
    source = dataclasses.replace(source, encoding=encoding, tags=tags)
    settings = nvenc_settings("mp4", software_settings("mp4", source, lossless=True, crf=16), crf=16)
    random = np.random.default_rng(3)
    y, u, v = (random.integers(100, 900, shape).astype(np.uint16) for shape in encoding.plane_shapes(*size))
    raw: Any = av.CodecContext.create("rawvideo", "w")  # NVENC itself needs a GPU
    raw.height, raw.width, raw.pix_fmt, raw.time_base = *size, settings.pixel_format, source.time_base
    (packet,) = raw.encode(frame_from_rgb(rgb_from_planes((y, u, v), encoding), settings))
    expected = np.concatenate([y.ravel(), np.stack([u, v], axis=2).ravel()]) << 6
    np.testing.assert_array_equal(np.frombuffer(bytes(packet), np.uint16), expected)


@pytest.mark.parametrize(
    ("container", "source", "options", "reason"),
    [
        ("matroska", info(), {"lossless": True}, "it has no ffv1"),
        ("webm", info(), {}, "it has no vpx-vp9"),
        ("mp4", info(subsampling=(1, 2)), {}, "it stores 4:2:0 at even sizes, this is yuv422p"),
        ("mp4", info(size=(97, 160)), {}, "it stores 4:2:0 at even sizes, this is yuv444p"),
    ],
    ids=["ffv1", "webm", "4:2:2", "odd"],
)
def test_formats_that_nvenc_does_not_store_are_encoded_in_software(
    container: str, source: VideoInfo, options: dict[str, Any], reason: str
) -> None:
    arguments: dict[str, Any] = {"lossless": False, "crf": 16, **options}
    settings, line = choose_encoder(container, source, hwaccel="auto", **arguments)
    assert settings == software_settings(container, source, **arguments)
    assert line == f"{settings.codec} in software (not NVENC: {reason})"
    assert choose_encoder(container, source, hwaccel="none", **arguments) == (settings, settings.codec)
    with pytest.raises(UsageError, match="expected NVENC to encode this video"):
        choose_encoder(container, source, hwaccel="cuda", **arguments)


def test_at_the_default_quality_no_frame_is_stored_worse_than_another_and_none_visibly() -> None:
    """x264's own choice gives frames that others refer to half the error of those that none does."""
    source = info()
    source = dataclasses.replace(source, tags=dataclasses.replace(source.tags, chroma_location=3))
    settings = software_settings("mp4", source, lossless=False, crf=DEFAULT_CRF)
    rng = np.random.default_rng(0)
    picture = np.repeat(rng.integers(40, 216, (1, 130, 200)), 3, 0).astype(np.float32) / 255
    frames = [picture[:, t : t + 96, 2 * t : 2 * t + 162] for t in range(16)]
    file = BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = add_video_stream(output, source, settings)
        for t, rgb in enumerate(frames):
            frame = frame_from_rgb(rgb, settings)
            frame.pts = 3003 * t
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert b"ip_ratio=1.00" in file.getvalue()  # x264 writes down what it was told
    assert settings.options["x264-params"].endswith(":chromaloc=2")
    file.seek(0)
    with av.open(file, "r") as stored:
        decoded = [np.asarray(f.to_ndarray()[:96, :162], np.float32) / 255 for f in stored.decode(video=0)]
    errors = [float(np.square(a[0] - b).mean()) for a, b in zip(frames, decoded, strict=True)]
    assert max(errors) < 1.5 * min(errors)
    assert max(errors) < (0.6 / 255) ** 2


@WITHOUT_GPU
@pytest.mark.parametrize("bits", [8, 10])
def test_without_a_driver_ffmpeg_says_so_and_software_encodes(bits: int) -> None:
    settings, line = choose_encoder("mp4", info(bits), lossless=False, crf=16, hwaccel="auto")
    assert settings.codec == "libx264"
    assert line == "libx264 in software (not NVENC: Cannot load libcuda.so.1)"
    with pytest.raises(UsageError, match=r"it does not: Cannot load libcuda\.so\.1; let --hwaccel be auto"):
        choose_encoder("mp4", info(bits), lossless=False, crf=16, hwaccel="cuda")


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska"])
@pytest.mark.parametrize("lossless", [False, True], ids=["lossy", "lossless"])
@pytest.mark.parametrize("bits", [8, 10])
def test_a_trial_passes_encoders_that_work(container: str, bits: int, lossless: bool) -> None:
    settings = in_software(dataclasses.replace(nvenc(container, bits=bits, crf=51), lossless=lossless))
    assert encoder_problem(container, info(bits), settings) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lossless": True}, "frame 0 came back changed, though lossless"),
        ({"pixel_format": "gray"}, "matrix and full range came back as (2, True)"),
        ({"options": {"crf": "16", "profile": "main10"}}, "profile"),
        ({"codec": "rot13"}, "rot13"),
    ],
    ids=["not-lossless", "tags-lost", "bad-option", "no-encoder"],
)
def test_a_trial_finds_what_is_wrong(changes: dict[str, Any], reason: str) -> None:
    settings = dataclasses.replace(in_software(nvenc("matroska")), **changes)
    assert reason in encoder_problem("matroska", info(), settings)


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        (lambda seconds: [0 * time for time in seconds], "frame 1 came back at 0.033"),
        (lambda seconds: seconds * 2, "8 of 16 frames came back"),
    ],
    ids=["times", "count"],
)
def test_a_trial_finds_other_times_and_counts(expected: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = encoder_av.encode_trial
    monkeypatch.setattr(encoder_av, "encode_trial", lambda *arguments: expected(real(*arguments)))
    assert reason in encoder_problem("mp4", info(), in_software(nvenc()))


def test_a_trial_finds_other_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    real = encoder_av.frame_from_rgb
    monkeypatch.setattr(encoder_av, "frame_from_rgb", lambda rgb, settings: real(1 - rgb, settings))
    assert "frame 0 came back with " in encoder_problem("mp4", info(), in_software(nvenc()))


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("lossless", [False, True], ids=["lossy", "lossless"])
def test_a_job_on_the_gpu_keeps_everything_that_is_not_pixels(
    tmp_path: Path, pixel_format: str, lossless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Clip(pixel_format=pixel_format, times=UNEVEN, matrix=TAG_BT709, range=LIMITED, audio="aac", rotation=90,
                  options={"bf": "2", "crf": "8"}).write(tmp_path / "clip")  # fmt: skip
    opened = use_nvdec(monkeypatch)
    use_nvenc(monkeypatch)
    lines: list[str] = []
    result = deblur(
        source,
        plan=Identity(),
        output_format=OutputFormat(lossless=lossless),
        execution=Execution(hwaccel="cuda"),
        observer=Observer(info=lines.append),
    )
    before, after = decode(source), decode(result.output)
    deep = pixel_format != "yuv420p"
    assert lines == ["nothing runs", f"decoder h264 on NVDEC, encoder {'libx265' if deep else 'libx264'}"]
    assert opened[0].decoded == result.frames == len(UNEVEN)
    assert after.seconds == before.seconds
    assert after.audio == before.audio
    for key in ("format", "size", "matrix", "range", "rotation", "kinds", "language", "title"):
        assert after.stream[key] == before.stream[key], key
    if lossless:
        for a, b in zip(after.planes, before.planes, strict=True):
            assert all((x == y).all() for x, y in zip(a, b, strict=True))
    with av.open(str(result.output)) as container:
        assert container.streams.video[0].codec_context.codec_tag == ("hvc1" if deep else "avc1")


@pytest.mark.parametrize("on_gpu", [False, True], ids=["cpu-plan", "gpu-plan"])
def test_auto_tries_the_gpu_only_beside_plans_that_run_on_one(
    tmp_path: Path, on_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Clip().write(tmp_path / "clip")
    opened = use_nvdec(monkeypatch)
    tried: list[EncoderSettings] = []
    monkeypatch.setattr(encoder_av, "encoder_problem", lambda *args: tried.append(args[-1]) or "it is a test")
    restorer = Identity()
    restorer.on_gpu = on_gpu
    lines: list[str] = []
    deblur(source, plan=restorer, observer=Observer(info=lines.append))
    assert len(tried) == on_gpu
    assert len(opened) == 2 * on_gpu  # once for times and scenes, once to restore
    assert lines[1] == (
        "decoder h264 on NVDEC, encoder libx264 in software (not NVENC: it is a test)"
        if on_gpu
        else "decoder h264, encoder libx264"
    )


@pytest.mark.needs_cuda
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("lossless", [False, True], ids=["lossy", "lossless"])
def test_nvenc_passes_its_trial(bits: int, lossless: bool) -> None:
    size = (240, 320)
    settings = nvenc(bits=bits, lossless=lossless)
    problem = encoder_problem("mp4", info(bits, size=size), settings)
    if re.search(r"not supported|unsupported device|No capable devices", problem):  # words of FFmpeg's nvenc.c
        pytest.skip(f"this GPU has no such encoder: {problem}")
    assert problem == ""


def test_frames_larger_than_the_codec_allows_are_refused_with_what_holds_them(tmp_path: Path) -> None:
    source = Clip(suffix=".mkv", codec="ffv1", size=(2, 16386), times=(0,)).write(tmp_path / "clip")
    wide, words = (
        Identity(in_flight=1, tile=(512, 512)),
        r"expected sides of at most \d+ pixels for .*use --lossless with",
    )
    with pytest.raises(UsageError, match=words):
        deblur(source, tmp_path / "out.mp4", wide)
    assert deblur(source, tmp_path / "out.mkv", wide, output_format=OutputFormat(lossless=True)).frames == 1
    with pytest.raises(UsageError, match=words):
        choose_encoder("webm", info(size=(65538, 2)), lossless=True, crf=2, hwaccel="none")
