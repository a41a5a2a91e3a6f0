"""Cached training clips: one uncompressed .npz per clip, written once, so that rendering leaves the training loop.

    python -m bsst.training.cache --data DIR --split train --first 0 --count 1500
    python -m bsst.training.cache --data DIR --split train --first 100000 --count 600   # enlarged photographs
    python -m bsst.training.cache --data DIR --split train --first 200000 --count 340   # brief exposures
    python -m bsst.training.cache --data DIR --split train --first 210000 --count 150   # fast motion

Clip number i of a split is the same whenever it is rendered; numbers ending in the same digit share a kind.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bsst.training.simulate import SPEED, WIDER_SPEED, Clip, Kind, linear_light, simulate

__all__ = ["BRIEF_FROM", "ENLARGED_FROM", "clip_of", "kind_of", "load", "save", "write_simulated"]

FRAMES, SIZE = 8, 128
KINDS: tuple[Kind, ...] = ("heavy", "mild", "heavy", "sharp", "heavy", "mild", "heavy", "heavy", "mild", "sharp")
ENLARGED_FROM, ENLARGED = 100_000, (1.5, 9.0)
"""Clips from this number on show photographs enlarged by such a factor: smooth pictures that no motion has blurred."""
BRIEF_FROM, BRIEF_SIZE, BRIEF_DUTY = 200_000, 192, (0.03, 0.6)
"""Clips from this number on are larger and exposed for such a share of a frame's time: motion that has blurred little.
Two in three show enlarged photographs.
"""
FAST_FROM, BRIEF_SPEED, FAST_SPEED = 210_000, (2.0, 60.0), (40.0, 150.0)
"""Their speed in pixels per frame; from this number on it is beyond what the flow network finds."""
SEEDS = {"train": 0, "validation": 500_000_003, "held": 1_000_000_007}


def save(clip: Clip, path: Path) -> None:
    """Write a clip; the file appears under its name only when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, blurry=clip.blurry, sharp=clip.sharp, forward=clip.forward, backward=clip.backward)
    temporary.rename(path)


def load(path: Path) -> Clip:
    """Read a clip written by `save`."""
    with np.load(path) as arrays:
        return Clip(arrays["blurry"], arrays["sharp"], arrays["forward"], arrays["backward"])


def kind_of(number: int) -> Kind:
    """Kind of simulated clip `number`."""
    return KINDS[number % len(KINDS)]


def write_simulated(data: Path, split: str, first: int, count: int) -> None:
    """Render clips `first` ... `first + count - 1` of a split into DIR/sim/<split>; existing ones are kept."""
    pictures = _pictures(data / "photo" / ("held" if split == "held" else "train"))
    for number in range(first, first + count):
        path = data / "sim" / split / f"{number:06d}.npz"
        if not path.exists():
            save(clip_of(pictures, number, split), path)


def clip_of(pictures: list[Tensor], number: int, split: str) -> Clip:
    """Render clip `number` of a split from linear-light photographs (3, H, W)."""
    rng = np.random.default_rng(number + SEEDS[split])
    kind, size, duty = kind_of(number), SIZE, None
    speeds = WIDER_SPEED if split == "train" else SPEED
    enlarged = ENLARGED if number >= ENLARGED_FROM else (1.0, 1.0)
    if number >= BRIEF_FROM:
        size, duty = BRIEF_SIZE, _log_uniform(rng, BRIEF_DUTY)
        speeds = {kind: FAST_SPEED if number >= FAST_FROM else BRIEF_SPEED}
        enlarged = ENLARGED if number % 3 else (1.0, 1.0)
    factor = _log_uniform(rng, enlarged)
    return simulate(pictures, rng, kind, frames=FRAMES, size=size, speeds=speeds, enlarged=factor, duty=duty)


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(limits)))) if limits[0] < limits[1] else limits[0]


def _pictures(folder: Path) -> list[Tensor]:
    """Photographs at full and at half size: half-size ones are sharper."""
    pictures = []
    for path in sorted(folder.glob("*.png")):
        picture = Image.open(path).convert("RGB")
        for divisor in (1, 2):
            size = (picture.width // divisor, picture.height // divisor)
            if min(size) >= 200:
                pictures.append(linear_light(np.asarray(picture.resize(size, Image.Resampling.BOX))))
    return pictures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=("train", "validation", "held"), default="train")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    write_simulated(arguments.data, arguments.split, arguments.first, arguments.count)
