"""Data sets are read in the layout of the released evaluation, and every frame is scored once, as published."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from bsst.calibration.parity.datasets import DVD, GOPRO, ClipFolder, read_image, read_layout, sub_sequences
from bsst.calibration.parity.footage import deviations
from bsst.errors import InputError
from bsst.runtime.metrics import psnr
from tests.runtime.fake_stages import fake_manifest

DATA = Path(__file__).parents[2] / "data"


def cut(frames: int) -> list[tuple[int, int, int]]:
    """(start, first kept, last kept) of each sub-sequence, counted as in the released code."""
    return [(s.start, s.keep.start, s.keep.stop - 1) for s in sub_sequences(frames)]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (100, [(0, 2, 45), (44, 2, 45), (52, 38, 45)]),
        (134, [(0, 2, 45), (44, 2, 45), (86, 4, 45)]),
        (77, [(0, 2, 45), (29, 17, 45)]),
        (48, [(0, 2, 45)]),
        (49, [(0, 2, 45), (1, 45, 45)]),
        (92, [(0, 2, 45), (44, 2, 45)]),
    ],
)
def test_sub_sequences_are_the_released_ones(frames: int, expected: list[tuple[int, int, int]]) -> None:
    assert cut(frames) == expected


def test_published_sets_have_the_published_number_of_sub_sequences() -> None:
    assert sum(GOPRO.values()) == 1111
    assert sum(len(sub_sequences(frames)) for frames in GOPRO.values()) == 32
    assert len(GOPRO) == 11
    assert sum(len(sub_sequences(frames)) for frames in DVD.values()) == 30
    assert len(DVD) == 10


@pytest.mark.parametrize("frames", [*range(1, 12), *range(44, 56), 91, 92, 93, 133, 134, 135, 1000])
def test_every_frame_but_the_outer_two_is_scored_exactly_once(frames: int) -> None:
    scored = [s.start + i for s in sub_sequences(frames) for i in range(s.stop - s.start)[s.keep]]
    assert scored == (list(range(2, frames - 2)) if frames > 4 else list(range(frames)))
    assert all(0 <= s.start < s.stop <= frames for s in sub_sequences(frames))


@pytest.mark.gopro
def test_gopro_is_read_in_its_layout() -> None:
    clips = read_layout(Path(os.environ.get("BSST_GOPRO_ROOT", DATA / "gopro")))
    counts = {clip.name: len(clip.blurry) for clip in clips}
    if "BSST_GOPRO_ROOT" in os.environ:
        assert counts == GOPRO
    else:
        assert counts == {"GOPR0001_11_00": 5, "GOPR0002_11_01": 7}
    for clip in clips:
        assert [path.name for path in clip.blurry] == [path.name for path in clip.sharp]
        assert clip.blurry == tuple(sorted(clip.blurry))
        _check_frames(clip.blurry[1], clip.sharp[1], clip.sharp[-1])


@pytest.mark.dvd
def test_dvd_is_read_in_its_layout() -> None:
    clips = read_layout(Path(os.environ.get("BSST_DVD_ROOT", DATA / "dvd")))
    counts = {clip.name: len(clip.blurry) for clip in clips}
    assert counts == (DVD if "BSST_DVD_ROOT" in os.environ else {"IMG_0001": 51})
    for clip in clips:
        assert len(clip.sharp) == len(clip.blurry)
        _check_frames(clip.blurry[1], clip.sharp[1], clip.sharp[-1])


def test_hidden_files_are_no_frames_and_names_need_not_match(tmp_path: Path) -> None:
    shutil.copytree(DATA / "gopro", tmp_path / "set")
    for side in ("blur", "GT"):
        (tmp_path / "set" / "test" / side / ".DS_Store").write_text("x")
    folder = tmp_path / "set" / "test" / "GT" / "GOPR0001_11_00"
    (folder / ".thumbnail.png").write_text("x")
    for path in sorted(folder.glob("0*")):
        path.rename(folder / f"sharp_{path.name}")
    clip = read_layout(tmp_path / "set")[0]
    assert [path.name for path in clip.sharp] == [f"sharp_00000{i}.png" for i in range(5)]
    assert clip.notes == ()


def data_set(root: Path, blurry: Sequence[str], sharp: Sequence[str]) -> Path:
    """One clip A of empty files."""
    for side, names in (("blur", blurry), ("GT", sharp)):
        folder = root / "test" / side / "A"
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
    return root


def test_frames_are_ordered_by_their_numbers_and_not_as_text(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(1, 13)]
    (clip,) = read_layout(data_set(tmp_path, names, names))
    assert [path.name for path in clip.blurry] == [path.name for path in clip.sharp] == names
    assert clip.notes == ()


def test_names_that_do_not_match_are_noted_from_the_first_on(tmp_path: Path) -> None:
    names = [f"{number:06}.png" for number in range(12)]
    (clip,) = read_layout(data_set(tmp_path, names[:3] + names[4:], names[:8] + names[9:]))
    assert clip.notes == ("names do not match from number 3 on: A/000004.png is compared with A/000003.png",)
    assert any(note in reason for note in clip.notes for reason in _reasons(clip))


def test_what_is_no_frame_is_left_out_and_noted(tmp_path: Path) -> None:
    names = [f"{number:06}.png" for number in range(3)]
    root = data_set(tmp_path, [*names, "Thumbs.db"], [*names, "desktop.ini"])
    (root / "test" / "blur" / "__MACOSX").mkdir()
    (clip,) = read_layout(root)
    assert [path.name for path in clip.blurry] == [path.name for path in clip.sharp] == names
    assert clip.notes == (
        "left out, being no part of the set: test/blur/__MACOSX",
        "left out, being no part of the set: GT/A/desktop.ini, blur/A/Thumbs.db",
    )


def _reasons(clip: ClipFolder) -> tuple[str, ...]:
    manifest = fake_manifest(3, ("backward_1",))
    frames = dataclasses.replace(clip, blurry=(DATA / "gopro/test/blur/GOPR0001_11_00/000000.png",))
    return deviations(manifest, [frames], {}, patches=False, limit=None)


def test_incomplete_sets_are_refused_with_the_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ROOT/test/blur/CLIP/FRAME"):
        read_layout(tmp_path)
    shutil.copytree(DATA / "gopro", tmp_path / "set")
    (tmp_path / "set/test/GT/GOPR0001_11_00/000002.png").unlink()
    with pytest.raises(InputError, match="got 5 and 4"):
        read_layout(tmp_path / "set")
    shutil.rmtree(tmp_path / "set/test/GT/GOPR0001_11_00")
    with pytest.raises(InputError, match="got 2 and 1"):
        read_layout(tmp_path / "set")
    shutil.rmtree(tmp_path / "set/test/blur")
    (tmp_path / "set/test/blur").mkdir()
    with pytest.raises(InputError, match="at least one, got 0"):
        read_layout(tmp_path / "set")


def test_a_frame_that_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "000001.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(InputError, match="000001.png: expected an image"):
        read_image(tmp_path / "000001.png")


def test_pixels_are_exact_rgb_planes(tmp_path: Path) -> None:
    from PIL import Image

    photo = np.ascontiguousarray(data.astronaut()[:31, :45])
    Image.fromarray(photo).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), photo.transpose(2, 0, 1))


def _check_frames(blurry: Path, sharp: Path, other: Path) -> None:
    """Ground truth is the middle of its own exposure: closer to it than a later frame."""
    a, b, c = (read_image(path) for path in (blurry, sharp, other))
    assert a.shape == b.shape
    assert a.dtype == np.uint8
    assert 15 < psnr(a, b) < 60
    assert psnr(a, b) > psnr(a, c)
