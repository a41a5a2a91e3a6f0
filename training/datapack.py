"""The training data in one file that travels to another machine: photographs as WebP, interpolated shots as H.264.

    python -m bsst.training.datapack --data DIR --out pack.zip     # after `sources` and `real interpolate`
    python -m bsst.training.datapack --data DIR --unpack pack.zip

Held-out shots and photographs are left out. Simulated clips are rendered where they are needed (`cache.py`).
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import av
from PIL import Image

from bsst.training.real import SHOTS

__all__ = ["pack_data", "unpack_data"]

LARGEST_BYTES = 64 << 20
PHOTO_QUALITY = 80
SHOT_CRF = 23


def pack_data(data: Path, out: Path) -> None:
    """Write photographs and shots of `data` that training and validation use into the zip archive `out`.

    Raises:
        ValueError: there is nothing to pack, or the archive would exceed 64 MiB.
    """
    photos = sorted((data / "photo" / "train").glob("*.png"))
    shots = [name for name, shot in SHOTS.items() if shot.split != "held"]
    shots = [name for name in shots if (data / "interpolated" / f"{name}.mkv").exists()]
    if not photos or not shots:
        raise ValueError(
            f"{data}: expected photo/train/*.png and interpolated/*.mkv, got {len(photos)} photographs and "
            f"{len(shots)} shots; run bsst.training.sources and bsst.training.real interpolate first"
        )
    temporary = out.with_suffix(".tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for photo in photos:
            archive.writestr(f"photo/train/{photo.stem}.webp", _webp(photo))
        for name in shots:
            archive.writestr(f"interpolated/{name}.mkv", _compressed(data / "interpolated" / f"{name}.mkv"))
    if (size := temporary.stat().st_size) > LARGEST_BYTES:
        temporary.unlink()
        raise ValueError(f"expected a pack of at most {LARGEST_BYTES:,} bytes, got {size:,}; leave photographs out")
    temporary.rename(out)
    print(f"{out}: {len(photos)} photographs, {len(shots)} shots, {size:,} bytes")


def unpack_data(data: Path, pack: Path) -> None:
    """Put the contents of a pack where `cache.py` and `real.py` read them; what exists already is kept."""
    with zipfile.ZipFile(pack) as archive:
        for member in archive.infolist():
            target = (data / member.filename).with_suffix(".png" if member.filename.endswith(".webp") else ".mkv")
            if target.exists() or not target.resolve().is_relative_to(data.resolve()):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == ".png":
                Image.open(io.BytesIO(archive.read(member))).save(target)
            else:
                target.write_bytes(archive.read(member))


def _webp(photo: Path) -> bytes:
    buffer = io.BytesIO()
    Image.open(photo).save(buffer, "WEBP", quality=PHOTO_QUALITY, method=6)
    return buffer.getvalue()


def _compressed(shot: Path) -> bytes:
    """The frames of a shot, in the same order, compressed with loss."""
    buffer = io.BytesIO()
    with av.open(str(shot)) as source, av.open(buffer, "w", format="matroska") as target:
        video = source.streams.video[0]
        rate = video.average_rate
        assert rate is not None
        stream = target.add_stream("libx264", rate=rate, options={"crf": str(SHOT_CRF)})
        stream.height, stream.width, stream.pix_fmt = video.height, video.width, "yuv420p"
        for index, frame in enumerate(source.decode(video)):
            frame.pts, frame.time_base = index, 1 / rate
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return buffer.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="archive to write")
    what.add_argument("--unpack", type=Path, help="archive to read")
    arguments = parser.parse_args()
    if arguments.unpack is not None:
        unpack_data(arguments.data, arguments.unpack)
    else:
        pack_data(arguments.data, arguments.out)
