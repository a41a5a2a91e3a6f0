"""A pack holds what training may see, small, and unpacks to where training reads it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from bsst.runtime.metrics import psnr
from bsst.training.datapack import pack_data, unpack_data
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


def test_a_pack_leaves_out_what_is_held_out_and_unpacks_to_all_frames(tmp_path: Path) -> None:
    frames = _data(tmp_path / "here")
    pack_data(tmp_path / "here", tmp_path / "pack.zip")
    with zipfile.ZipFile(tmp_path / "pack.zip") as archive:
        assert sorted(archive.namelist()) == ["interpolated/bikes_1.mkv", "photo/train/bricks.webp"]
    unpack_data(tmp_path / "there", tmp_path / "pack.zip")
    shot = read(tmp_path / "there" / "interpolated" / "bikes_1.mkv")
    before = read(tmp_path / "here" / "interpolated" / "bikes_1.mkv")
    assert shot.shape == frames.shape
    for t, frame in enumerate(shot):  # compressed, but nearer to its own frame than to any other
        assert int(np.argmax([psnr(frame, other) for other in before])) == t
        assert psnr(frame, before[t]) > 30
    photo = np.asarray(Image.open(tmp_path / "there" / "photo" / "train" / "bricks.png"))
    assert psnr(photo, np.asarray(Image.open(tmp_path / "here" / "photo" / "train" / "bricks.png"))) > 25


def test_a_pack_never_writes_outside_its_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as archive:
        archive.writestr("../outside.mkv", b"x")
    unpack_data(tmp_path / "data", tmp_path / "pack.zip")
    assert not (tmp_path / "outside.mkv").exists()


def test_without_data_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 0 photographs and 0 shots"):
        pack_data(tmp_path, tmp_path / "pack.zip")
    assert not list(tmp_path.iterdir())
