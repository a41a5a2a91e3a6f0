"""Fixed simulated clips for validation and for the tables: one uncompressed .npz per clip, written once.

    python -m bsst.training.cache --data DIR --split held --count 40

Clip number i of a split is the same whenever it is rendered; numbers ending in the same digit share a kind.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bsst.training.simulate import Clip, Kind, linear_light, simulate

__all__ = ["clip_of", "kind_of", "load", "save", "write_simulated"]

FRAMES, SIZE = 8, 128
KINDS: tuple[Kind, ...] = ("heavy", "mild", "heavy", "sharp", "heavy", "mild", "heavy", "heavy", "mild", "sharp")
SEEDS = {"validation": 500_000_003, "held": 1_000_000_007}


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
    return simulate(pictures, rng, kind_of(number), frames=FRAMES, size=SIZE)


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
    parser.add_argument("--split", choices=("validation", "held"), default="held")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    write_simulated(arguments.data, arguments.split, arguments.first, arguments.count)
