"""Random training batches from the cached clips, held in memory as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bsst.training.cache import kind_of, load
from bsst.training.simulate import Clip, Kind

__all__ = ["Batch", "Pool", "draw"]

VISIBLE_DB = 41.0
FAINT_SHARE = 0.2
"""Clips blurred so little that their PSNR exceeds `VISIBLE_DB` teach restraint; a few teach it well enough: they are
taken this often, relative to the others. Almost half of the real clips are such."""


@dataclass(frozen=True)
class Batch:
    """`blurry`, `sharp`: (N, T, 3, H, W) in [0, 1]; `forward`, `backward`: (N, T-1, 2, H/4, W/4) at 1/4 scale."""

    blurry: Tensor
    sharp: Tensor
    forward: Tensor
    backward: Tensor


class Pool:
    """All clips of a folder; `refresh` picks up clips that were written since."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clips: dict[str, Clip] = {}
        self._faint: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Read new clips."""
        for path in sorted(self.folder.glob("??????.npz")):
            if path.name not in self.clips:
                clip = self.clips[path.name] = load(path)
                if np.square(clip.blurry - clip.sharp.astype(np.float32)).mean() < 255**2 / 10 ** (VISIBLE_DB / 10):
                    self._faint.add(path.name)
        self.names = sorted(self.clips)

    def pick(self, rng: np.random.Generator, kinds: tuple[Kind, ...] | None = None) -> Clip:
        """One clip at random, of some kinds of simulated ones if given, seldom one without visible blur."""
        while True:
            name = self.names[rng.integers(len(self.names))]
            wanted = kinds is None or kind_of(int(name[:6])) in kinds
            if wanted and (name not in self._faint or rng.random() < FAINT_SHARE):
                return self.clips[name]


def draw(clips: list[Clip], rng: np.random.Generator, *, frames: int, crop: int) -> Batch:
    """Crop and augment one sample of each clip.

    Args:
        clips: where the samples come from, with the flows that the network will get.
        rng: source of every random choice.
        frames: clip length of the samples.
        crop: height and width of the samples, a multiple of 4.
    """
    samples = [_augment(_cut(clip, rng, frames, crop), rng) for clip in clips]
    return Batch(*(torch.stack([sample[i] for sample in samples]) for i in range(4)))


Sample = tuple[Tensor, Tensor, Tensor, Tensor]


def _cut(clip: Clip, rng: np.random.Generator, frames: int, crop: int) -> Sample:
    count, height, width = clip.blurry.shape[:3]
    t = int(rng.integers(0, count - frames + 1))
    y, x = (int(rng.integers(0, (n - crop) // 4 + 1)) * 4 for n in (height, width))
    images = (a[t : t + frames, y : y + crop, x : x + crop] for a in (clip.blurry, clip.sharp))
    blurry, sharp = (torch.tensor(a).permute(0, 3, 1, 2).float() / 255 for a in images)
    q, v, u = crop // 4, y // 4, x // 4
    fields = (a[t : t + frames - 1, :, v : v + q, u : u + q] for a in (clip.forward, clip.backward))
    forward, backward = (torch.tensor(a).float() for a in fields)
    return blurry, sharp, forward, backward


def _augment(sample: Sample, rng: np.random.Generator) -> Sample:
    """Mirror, transpose, reverse time, permute colours: the flow follows."""
    blurry, sharp, forward, backward = sample
    for axis in (0, 1):
        if rng.random() < 0.5:
            blurry, sharp = blurry.flip(3 - axis), sharp.flip(3 - axis)
            sign = torch.ones(2, 1, 1)
            sign[axis] = -1
            forward, backward = forward.flip(3 - axis) * sign, backward.flip(3 - axis) * sign
    if rng.random() < 0.5:
        blurry, sharp = blurry.transpose(2, 3), sharp.transpose(2, 3)
        forward, backward = forward.transpose(2, 3).flip(1), backward.transpose(2, 3).flip(1)
    if rng.random() < 0.5:
        blurry, sharp = blurry.flip(0), sharp.flip(0)
        forward, backward = backward.flip(0), forward.flip(0)
    if rng.random() < 0.3:
        order = torch.from_numpy(rng.permutation(3))
        blurry, sharp = blurry[:, order], sharp[:, order]
    return blurry, sharp, forward, backward
