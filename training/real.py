"""Real exposures: footage interpolated to four times its rate, then averaged in linear light (GoPro's method).

    python -m bsst.training.real --data DIR interpolate     # ffmpeg, once, DIR/interpolated/*.mkv

Averaging 25 frames a second directly gives separate ghosts, so motion is interpolated first, shot by shot, because
interpolation across a cut makes nonsense. The middle of every exposure, the ground truth, is an original frame.
"""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray

from bsst.training.simulate import GAMMA, to_bytes

__all__ = [
    "FRESH_CLIPS",
    "HELD_CLIPS",
    "SHOTS",
    "VALIDATION_CLIPS",
    "FixedClip",
    "Shot",
    "average",
    "fixed_clip",
    "read",
]

RATE = 4
"""Interpolated frames per source frame."""


@dataclass(frozen=True)
class Shot:
    """Source frames `first` ... `last - 1` of a video, scaled to `width`; `split` says what may use it."""

    video: str
    first: int
    last: int
    width: int
    split: str


SHOTS = {
    "bikes_1": Shot("bikes.mp4", 0, 30, 640, "train"),
    "bikes_2": Shot("bikes.mp4", 30, 76, 640, "train"),
    "bikes_3": Shot("bikes.mp4", 76, 137, 640, "train"),
    "bikes_4": Shot("bikes.mp4", 137, 187, 640, "validation"),
    "bikes_5": Shot("bikes.mp4", 187, 242, 640, "held"),
    "bunny": Shot("bigbuckbunny.mp4", 0, 132, 480, "train"),
    "trailer_1": Shot("trailer_bbb.mp4", 600, 790, 480, "train"),
    "trailer_2": Shot("trailer_bbb.mp4", 795, 863, 480, "train"),
    "trailer_3": Shot("trailer_bbb.mp4", 930, 987, 480, "train"),
    "trailer_4": Shot("trailer_bbb.mp4", 989, 1048, 480, "validation"),
    "cup": Shot("cup.mp4", 0, 217, 320, "train"),
    "dice": Shot("dice.mkv", 12, 74, 368, "train"),
    "target": Shot("target.mkv", 340, 440, 368, "train"),
    "skyline_1": Shot("skyline_1.mkv", 0, 122, 320, "train"),
    "skyline_2": Shot("skyline_2.mkv", 2, 148, 320, "train"),
    "box": Shot("box.mp4", 100, 260, 320, "held"),
    "carphone": Shot("carphone_pristine.mp4", 0, 120, 176, "held"),
    "people": Shot("vtest.avi", 300, 380, 768, "held"),
    "restaurant": Shot("Megamind.avi", 150, 250, 720, "held"),
    "city_1": Shot("cityCC0.mpg", 0, 116, 540, "held"),
    "city_2": Shot("cityCC0.mpg", 116, 190, 540, "held"),
}


@dataclass(frozen=True)
class FixedClip:
    """A clip fixed for good: `exposed` of `period` interpolated frames averaged, centres from `start` on."""

    shot: str
    start: int
    top: int
    left: int
    exposed: int
    period: int
    size: int = 256
    frames: int = 12


HELD_CLIPS = {
    "city stairs": FixedClip("city_1", 8, 48, 20, 15, 16),
    "city front": FixedClip("city_2", 16, 20, 150, 15, 16),
    "carphone": FixedClip("carphone", 8, 8, 24, 17, 20, 128),
    "box": FixedClip("box", 40, 20, 100, 17, 20, 192),
    "bike left": FixedClip("bikes_5", 12, 8, 60, 13, 16),
    "bike right": FixedClip("bikes_5", 12, 8, 360, 13, 16),
}
"""Held-out clips by name; nothing in training or model selection may look at them."""

FRESH_CLIPS = {
    "city steps": FixedClip("city_1", 20, 0, 0, 27, 32),
    "city wall": FixedClip("city_1", 207, 24, 142, 19, 20),
    "city street": FixedClip("city_2", 39, 48, 284, 19, 20),
    "bike early left": FixedClip("bikes_5", 41, 16, 0, 11, 12),
    "bike early middle": FixedClip("bikes_5", 41, 0, 192, 11, 12),
    "box slow": FixedClip("box", 383, 24, 128, 19, 20, 192),
    "box fast": FixedClip("box", 20, 48, 64, 27, 32, 192),
    "carphone late": FixedClip("carphone", 301, 8, 48, 11, 12, 128),
    "people road": FixedClip("people", 20, 160, 512, 21, 24),
    "people path": FixedClip("people", 141, 160, 512, 11, 12),
    "restaurant left": FixedClip("restaurant", 20, 100, 100, 21, 24),
    "restaurant right": FixedClip("restaurant", 20, 100, 400, 21, 24),
}
"""More held-out clips, chosen by their motion alone before any network had seen them; `HELD_CLIPS` had been looked at
when a scale of the residual was chosen."""

VALIDATION_CLIPS = {
    "street left": FixedClip("bikes_4", 8, 8, 60, 13, 16),
    "street right": FixedClip("bikes_4", 8, 8, 360, 13, 16),
    "bunny left": FixedClip("trailer_4", 12, 8, 20, 15, 16),
    "bunny right": FixedClip("trailer_4", 12, 8, 220, 15, 16),
}
"""Clips of the shots that training leaves out, for checks during training and the choice of the residual's scale."""


def interpolate(data: Path) -> None:
    """Write DIR/interpolated/<shot>.mkv (FFV1, four times the rate) for every shot that is missing."""
    folder = data / "interpolated"
    folder.mkdir(exist_ok=True)
    for name, shot in SHOTS.items():
        target = folder / f"{name}.mkv"
        if target.exists():
            continue
        source = data / "video" / shot.video
        with av.open(str(source)) as container:
            rate = container.streams.video[0].average_rate
        assert rate is not None
        trim = (
            f"trim=start_frame={shot.first}:end_frame={shot.last},setpts=PTS-STARTPTS,scale={shot.width}:-2:flags=area"
        )
        mci = f"minterpolate=fps={RATE * rate}:mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1:scd=none"
        temporary = target.with_suffix(".tmp.mkv")
        command = ["ffmpeg", "-v", "error", "-y", "-threads", "1", "-i", str(source), "-vf", f"{trim},{mci}"]
        subprocess.run([*command, "-c:v", "ffv1", "-pix_fmt", "yuv420p", str(temporary)], check=True)
        temporary.rename(target)


def read(path: Path) -> NDArray[np.uint8]:
    """All frames of a video, (frames, H, W, 3) uint8 RGB."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def average(video: NDArray[np.uint8], centres: list[int], exposed: int) -> NDArray[np.uint8]:
    """Mean in linear light of `exposed` (odd) frames around each centre: (centres, H, W, 3) uint8."""
    reach = exposed // 2
    exposures = [
        torch.tensor(video[c - reach : c + reach + 1]).permute(0, 3, 1, 2).float().div(255).pow(GAMMA).mean(0)
        for c in centres
    ]
    return to_bytes(torch.stack(exposures))


def fixed_clip(data: Path, clip: FixedClip) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Blurry and sharp frames of a fixed clip, each (frames, size, size, 3) uint8."""
    window = np.s_[:, clip.top : clip.top + clip.size, clip.left : clip.left + clip.size]
    video = read(data / "interpolated" / f"{clip.shot}.mkv")[window]
    centres = [clip.start + i * clip.period for i in range(clip.frames)]
    return average(video, centres, clip.exposed), np.ascontiguousarray(video[centres])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("step", choices=("interpolate",))
    interpolate(parser.parse_args().data)
