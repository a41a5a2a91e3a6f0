"""A pack holds what training may see, small, as training reads it."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from bsst.runtime.metrics import psnr
from bsst.training.datapack import pack_data
from bsst.training.footage import BANK, photographs
from bsst.training.real import read


def _data(folder: Path) -> np.ndarray:
    """A photograph and a shot for training, and one of each that is held out; the frames of the shot."""
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(60, 200, (30, 40, 1)), np.ones((8, 8, 3))).astype(np.uint8)
    frames = np.stack([texture[:96, t : t + 130] for t in range(20)])
    for split in ("train", "held"):
        (folder / "photo" / split).mkdir(parents=True)
        Image.fromarray(texture).save(folder / "photo" / split / "bricks.png")
    (folder / "interpolated").mkdir()
    for name in ("bikes_1", "city_1"):
        with av.open(str(folder / "interpolated" / f"{name}.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=100)
            stream.width, stream.height, stream.pix_fmt = 130, 96, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
    return frames


def test_a_pack_holds_the_photographs_and_all_frames_of_the_shots_that_training_may_see(tmp_path: Path) -> None:
    frames = _data(tmp_path / "here")
    pack_data(tmp_path / "here", tmp_path / "pack")
    assert sorted(str(p.relative_to(tmp_path / "pack")) for p in (tmp_path / "pack").rglob("*.*")) == [
        "photo/bricks.webp",
        "shots/bikes_1.mp4",
        "validation.npz",
    ]
    shot = read(tmp_path / "pack" / "shots" / "bikes_1.mp4")
    before = read(tmp_path / "here" / "interpolated" / "bikes_1.mkv")
    assert shot.shape == frames.shape
    for t, frame in enumerate(shot):  # compressed, but nearer to its own frame than to any other
        assert int(np.argmax([psnr(frame, other) for other in before])) == t
        assert psnr(frame, before[t]) > 35
    paths = (tmp_path / "pack" / "photo" / "bricks.webp", tmp_path / "here" / "photo" / "train" / "bricks.png")
    pictures = []
    for path in paths:
        with Image.open(path) as picture:
            pictures.append(np.asarray(picture))
    assert psnr(*pictures) > 25


def test_large_photographs_are_cut_to_what_is_rendered_from_and_training_reads_them(tmp_path: Path) -> None:
    _data(tmp_path / "here")
    for name, size in (("wide", (1000, 700)), ("high", (600, 900))):
        Image.new("RGB", size, (90, 120, 150)).save(tmp_path / "here" / "photo" / "train" / f"{name}.png")
    pack_data(tmp_path / "here", tmp_path / "pack")
    for name, size in (("wide", BANK[::-1]), ("high", BANK)):
        with Image.open(tmp_path / "pack" / "photo" / f"{name}.webp") as picture:
            assert picture.size == size
    assert photographs(tmp_path / "pack" / "photo").shape == (3, 3, *BANK)


def test_without_data_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 0 photographs and 0 shots"):
        pack_data(tmp_path, tmp_path / "pack")
    assert not list(tmp_path.iterdir())
