"""What `train.py` reads, in one folder small enough to travel to a GPU machine.

    python -m bsst.training.datapack --data DIR --out PACK     # after `sources`, `real` and `cache`

writes PACK/photo/*.webp (cut to the size that is rendered from), PACK/shots/*.mp4 (interpolated shots) and
PACK/validation.npz. What is held out is left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from bsst.training.cache import load
from bsst.training.footage import BANK
from bsst.training.real import SHOTS, VALIDATION_CLIPS, fixed_clip

__all__ = ["pack_data"]

LARGEST_BYTES = 40 << 20
PHOTO_QUALITY, SHOT_CRF = 72, 12
FRAMES, SIZE, SIMULATED = 7, 128, 2
"""Of the validation clips: frames, side of a crop from their middle, and how many are simulated."""


def pack_data(data: Path, out: Path) -> None:
    """Write photographs and shots of `data` that training uses, and validation clips, into the folder `out`.

    Raises:
        ValueError: there is nothing to pack, or it exceeds 40 MiB.
    """
    photos = sorted((data / "photo" / "train").glob("*.png"))
    names = [name for name, shot in SHOTS.items() if shot.split == "train"]
    shots = [path for name in names if (path := data / "interpolated" / f"{name}.mkv").exists()]
    if not photos or not shots:
        raise ValueError(
            f"{data}: expected photo/train/*.png and interpolated/*.mkv, got {len(photos)} photographs and "
            f"{len(shots)} shots; run bsst.training.sources and bsst.training.real first"
        )
    for folder in ("photo", "shots"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for photo in photos:
        with Image.open(photo) as picture:
            cut = _cut(picture.convert("RGB"))
        cut.save(out / "photo" / f"{photo.stem}.webp", "WEBP", quality=PHOTO_QUALITY, method=4)
    for shot in shots:
        _compress(shot, out / "shots" / f"{shot.stem}.mp4")
    _write_validation(data, out / "validation.npz")
    if (size := sum(path.stat().st_size for path in out.rglob("*.*"))) > LARGEST_BYTES:
        raise ValueError(f"expected a pack of at most {LARGEST_BYTES:,} bytes, got {size:,}; leave photographs out")
    print(f"{out}: {len(photos)} photographs, {len(shots)} shots, {size:,} bytes")


def _cut(picture: Image.Image) -> Image.Image:
    """The middle of a picture, as much as is rendered from; smaller ones stay."""
    height, width = BANK if picture.width >= picture.height else BANK[::-1]
    if picture.width < width or picture.height < height:
        return picture
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _compress(shot: Path, out: Path) -> None:
    """The frames of a shot, in the same order, compressed with little loss."""
    with av.open(str(shot)) as source, av.open(str(out), "w") as target:
        video = source.streams.video[0]
        rate = video.average_rate
        assert rate is not None
        stream = target.add_stream("libx264", rate=rate, options={"crf": str(SHOT_CRF)})
        stream.height, stream.width, stream.pix_fmt = video.height, video.width, "yuv420p"
        for index, frame in enumerate(source.decode(video)):
            frame.pts, frame.time_base = index, 1 / rate
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))


def _write_validation(data: Path, out: Path) -> None:
    """Crops of the validation clips that exist in `data`."""
    pairs = {}
    for name, clip in VALIDATION_CLIPS.items():
        if (data / "interpolated" / f"{clip.shot}.mkv").exists():
            pairs[f"real_{name.replace(' ', '_')}"] = fixed_clip(data, clip)
    for path in sorted((data / "sim" / "validation").glob("??????.npz"))[:SIMULATED]:
        simulated = load(path)
        pairs[f"sim_{path.stem}"] = simulated.blurry, simulated.sharp
    arrays: dict[str, Any] = {}
    for name, (blurry, sharp) in pairs.items():
        top, left = ((n - SIZE) // 2 for n in blurry.shape[1:3])
        for kind, video in (("blurry", blurry), ("sharp", sharp)):
            arrays[f"{name}_{kind}"] = video[:FRAMES, top : top + SIZE, left : left + SIZE]
    np.savez_compressed(out, **arrays)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    pack_data(arguments.data, arguments.out)
