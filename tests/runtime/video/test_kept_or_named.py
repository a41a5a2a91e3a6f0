"""What a source has beside its pixels is in the result, or named in a warning."""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from bsst.runtime.job import deblur
from bsst.runtime.jobs.options import OutputFormat
from bsst.runtime.video.facts import LOCATIONS, Mastering
from bsst.runtime.video.reader import VideoReader
from tests.media import Clip, Identity

PICTURE = np.full((48, 64, 3), 200, np.uint8)
GREEN, BLUE, RED, WHITE = (13250, 34500), (7500, 3000), (34000, 16000), (15635, 16450)
HDR10 = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"


def decoded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize(("suffix", "kept"), [(".mp4", True), (".mov", True), (".webm", False)])
def test_hdr_metadata_and_chroma_location_are_kept_or_named(tmp_path: Path, suffix: str, kept: bool) -> None:
    options = {"x265-params": f"log-level=none:chromaloc=2:repeat-headers=1:{HDR10}"}
    recipe = Clip(codec="libx265", pixel_format="yuv420p10le", times=(0, 512, 1024), size=(48, 64), options=options)
    source = recipe.write(tmp_path / "clip")
    result = deblur(source, tmp_path / f"out{suffix}", Identity())
    with VideoReader(result.output) as reader:
        mastering, location = reader.info.mastering, LOCATIONS[reader.info.tags.chroma_location]
    expected = Mastering(display=(*GREEN, *BLUE, *RED, *WHITE, 10_000_000, 1), light=(1000, 400))
    assert (mastering == expected) is kept
    assert kept is not any("HDR mastering metadata" in warning for warning in result.warnings)
    assert location == "topleft" or any("chroma location topleft" in warning for warning in result.warnings)


def test_closed_captions_of_frames_are_named(tmp_path: Path) -> None:
    plain = Clip(suffix=".h264", times=(0, 1, 2), time_base=Fraction(1, 25), options={"bf": "0", "threads": "1"})
    data = plain.write(tmp_path / "plain").read_bytes()
    pairs = bytes([0xFC, 0x94, 0x20, 0xFC, 0xC8, 0x45])
    payload = bytes([0xB5, 0, 0x31]) + b"GA94" + bytes([3, 0x42, 0xFF]) + pairs + b"\xff"
    message = b"\0\0\1\x06\x04" + bytes([len(payload)]) + payload + b"\x80"  # A/53, in front of every slice
    starts = [place for place in range(len(data) - 3) if data[place : place + 3] == b"\0\0\1"] + [len(data)]
    captioned = data[: starts[0]]
    for start, stop in zip(starts[:-1], starts[1:], strict=True):
        captioned += (message if data[start + 3] & 31 in (1, 5) else b"") + data[start:stop]
    (tmp_path / "captions.h264").write_bytes(captioned)
    result = deblur(tmp_path / "captions.h264", tmp_path / "out.mp4", Identity())
    assert any("closed captions of the frames are not kept" in warning for warning in result.warnings)


def test_fields_that_begin_after_the_first_frame_are_named(tmp_path: Path) -> None:
    recipe = Clip(suffix=".m2v", codec="mpeg2video", times=(0, 1, 2), time_base=Fraction(1, 25), size=(96, 128))
    frames = recipe.write(tmp_path / "frames").read_bytes()
    fields = replace(recipe, options={"flags": "+ilme+ildct", "field_order": "tt"}).write(tmp_path / "fields")
    (tmp_path / "both.m2v").write_bytes(frames + fields.read_bytes())
    result = deblur(tmp_path / "both.m2v", tmp_path / "out.mkv", Identity(), output_format=OutputFormat(lossless=True))
    [warning] = [warning for warning in result.warnings if "the video is interlaced, in part at least" in warning]
    assert "ffmpeg -i FILE -vf bwdif" in warning
    planes, stored = (
        [frame.to_ndarray() for frame in decoded(path)] for path in (tmp_path / "both.m2v", result.output)
    )
    assert np.array_equal(planes, stored)  # what is seen differs only in how a player spreads chroma over fields
    result = deblur(tmp_path / "frames.m2v", tmp_path / "progressive.mkv", Identity())
    assert not any("interlaced" in warning for warning in result.warnings)


def test_a_clean_aperture_is_named_with_the_command_that_crops(tmp_path: Path) -> None:
    source = Clip(times=(0, 512)).write(tmp_path / "clip")  # 96x128
    data, parents = bytearray(source.read_bytes()), list[int]()
    place, stop = 0, len(data)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        while data[place + 4 : place + 8] != name:
            place += struct.unpack_from(">I", data, place)[0]
            assert place < stop
        parents.append(place)
        stop = place + struct.unpack_from(">I", data, place)[0]
        place += 16 if name == b"stsd" else 8
    data[stop:stop] = struct.pack(">I4s8I", 40, b"clap", 112, 1, 80, 1, 0, 1, 0, 1)
    for parent in parents:
        struct.pack_into(">I", data, parent, struct.unpack_from(">I", data, parent)[0] + 40)
    source.write_bytes(data)
    result = deblur(source, tmp_path / "out.mp4", Identity())
    assert any("crop=112:80:8:8" in warning for warning in result.warnings)


def test_white_of_digital_cinema_is_white(tmp_path: Path) -> None:
    path = tmp_path / "white.nut"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.height, stream.width, stream.pix_fmt = *PICTURE.shape[:2], "xyz12le"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full_like(PICTURE, 255)).reformat(format="xyz12le")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        shown = next(container.decode(video=0)).to_ndarray(format="rgb24").transpose(2, 0, 1)
    with VideoReader(path) as reader:
        found = np.rint(next(iter(reader)).rgb.clip(0, 1) * 255)
    assert shown.min() > 240
    assert abs(found - shown).max() <= 1


@pytest.mark.parametrize("transparent", [False, True])
def test_transparency_is_named_where_there_is_some(tmp_path: Path, transparent: bool) -> None:
    from PIL import Image

    pictures = []
    for level in (90, 200):
        pixels = np.full((48, 64, 4), (level, level, level, 255), np.uint8)
        pixels[:8, :, 3] = 0 if transparent else 255
        pictures.append(Image.fromarray(pixels, "RGBA"))
    pictures[0].save(tmp_path / "clip.gif", save_all=True, append_images=pictures[1:], duration=100, disposal=2)
    result = deblur(tmp_path / "clip.gif", tmp_path / "out.mkv", Identity())
    assert any("transparency" in warning for warning in result.warnings) is transparent
