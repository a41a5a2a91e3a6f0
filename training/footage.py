"""Photographs and footage of a data pack on the device: the bank of `render`, and exposures of real clips.

Frames are decoded by OpenCV, which a GPU machine has more often than PyAV.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bsst.reference.raft import RAFT
from bsst.training.batch import VISIBLE_DB
from bsst.training.pool import Pool
from bsst.training.simulate import GAMMA
from bsst.training.steps import flows_of

__all__ = ["fill_real", "photographs", "shots"]

BANK = (560, 880)
"""Height and width of the photographs, by cutting; smaller ones are enlarged."""
FAINT_SHARE = 0.25
"""Of the clips without visible blur, this share is kept."""
AT_ONCE = 32


def photographs(folder: Path) -> Tensor:
    """Every picture of a folder, (P, 3, *BANK) uint8, wider than high."""
    height, width = BANK

    def one(path: Path) -> NDArray[np.uint8]:
        with Image.open(path) as file:
            picture: Image.Image = file.convert("RGB")
        if picture.height > picture.width:
            picture = picture.transpose(Image.Transpose.ROTATE_90)
        scale = max(height / picture.height, width / picture.width)
        size = (math.ceil(picture.width * scale), math.ceil(picture.height * scale))
        if scale > 1:
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return np.asarray(picture.crop((left, top, left + width, top + height))).transpose(2, 0, 1)

    paths = sorted(p for p in folder.iterdir() if p.suffix in (".webp", ".png", ".jpg"))
    with ThreadPoolExecutor(16) as workers:
        return torch.from_numpy(np.stack(list(workers.map(one, paths))))


def shots(folder: Path) -> list[NDArray[np.uint8]]:
    """Frames (T, H, W, 3) RGB of every interpolated shot, see `bsst.training.real`."""
    import cv2

    def one(path: Path) -> NDArray[np.uint8]:
        reader, frames = cv2.VideoCapture(str(path)), []
        while (read := reader.read())[0]:
            frames.append(read[1][:, :, ::-1])
        if not frames:
            raise ValueError(f"{path}: expected frames that OpenCV can decode, got none")
        return np.stack(frames)

    with ThreadPoolExecutor(8) as workers:
        return list(workers.map(one, sorted(folder.glob("*.m[kp][v4]"))))


@torch.no_grad()
def fill_real(pool: Pool, found: list[NDArray[np.uint8]], raft: RAFT, seed: int) -> None:
    """Exposures of interpolated footage, as `bsst.training.real` makes them, into the first places of a pool.

    Raises:
        RuntimeError: the shots are too short or too small for the clips of the pool.
    """
    device, rng = pool.blurry.device, np.random.default_rng(seed)
    t, side = pool.blurry.shape[1], pool.blurry.shape[3]
    table = (torch.arange(256, device=device) / 255.0).pow(GAMMA)
    loaded = [torch.from_numpy(np.ascontiguousarray(v)).to(device) for v in found if min(v.shape[1:3]) >= side]
    weights = np.array([len(v) ** 0.5 for v in loaded])
    number = tries = 0
    waiting: list[tuple[Tensor, Tensor]] = []
    while number < pool.real:
        tries += 1
        if tries > 50 * pool.real:
            raise RuntimeError(f"expected {pool.real} real clips, got {number} of {tries} tries")
        video = loaded[rng.choice(len(loaded), p=weights / weights.sum())]
        period = 4 * int(rng.integers(2, 8))
        exposed = min(int(rng.uniform(0.3, 0.95) * period) | 1, period - 1)
        length = (t - 1) * period + exposed + 1
        if length > len(video) - 4:
            continue
        start = 4 * int(np.ceil(rng.uniform(exposed // 2, len(video) - 4 - length + exposed // 2) / 4))
        centres = [start + i * period for i in range(t)]
        y, x = (int(rng.integers(0, n - side + 1)) for n in video.shape[1:3])
        crop = video[:, y : y + side, x : x + side]
        sharp = crop[centres].permute(0, 3, 1, 2).float() / 255
        reach = exposed // 2
        linear = torch.stack([table[crop[c - reach : c + reach + 1].int()].mean(0) for c in centres])
        blurry = (linear.pow(1 / GAMMA).permute(0, 3, 1, 2) * 255).round() / 255
        if (blurry - sharp).square().mean() < 10 ** (-VISIBLE_DB / 10) and rng.random() > FAINT_SHARE:
            continue
        waiting.append((blurry, sharp))
        number += 1
        if len(waiting) == AT_ONCE or number == pool.real:
            b, s = (torch.stack(frames) for frames in zip(*waiting, strict=True))
            forward, backward = flows_of(raft, b)
            places = torch.arange(number - len(waiting), number, device=device)
            pool.put(places, blurry=b, sharp=s, forward=forward, backward=backward)
            waiting = []
