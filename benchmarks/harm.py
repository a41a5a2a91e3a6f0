"""Does the packaged plan ever make a clip worse? Clips that it was not made for, with known sharp frames.

    python benchmarks/harm.py                   # every clip; minutes
    python benchmarks/harm.py --only zoom,pan   # some kinds

Made from the two demo clips: enlargements (fast, smooth motion), pans up to 120 pixels per frame, rotations, cuts, a
flash, noise, still frames, the sharp clip itself, 48 frames in windows. Runs the product's way: windows, tiles, guard.
Prints input PSNR, gain of the mean and of the worst frame, and how many frames the guard touched; exits with 1 where
the mean of a clip of at most 45 dB falls by more than 0.05 dB. Nearer to sharp than that, no loss can be seen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import bsst
from bsst.runtime.frames.frame import RestoredWindow, SourceFrame
from bsst.runtime.metrics import psnr, to_uint8
from bsst.runtime.restore import restored_windows
from bsst.runtime.video.reader import VideoReader

DATA = Path(__file__).parents[1] / "tests" / "data"
SIZE, FRAMES = 256, 12
TOLERATED, VISIBLE = -0.05, 45.0

Clip = tuple[str, np.ndarray, np.ndarray]
"""Name, blurry and sharp frames (T, 3, H, W) float32 in [0, 1]."""


def main() -> None:
    """Restore every clip and judge it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="kinds, separated by commas")
    parser.add_argument("--plan", type=Path)
    arguments = parser.parse_args()
    harmed = 0
    with bsst.load_network(arguments.plan) as network:
        for name, blurry, sharp in clips():
            if arguments.only and name.split()[0] not in arguments.only.split(","):
                continue
            restored, touched = [], 0
            for window in restored_windows(map(SourceFrame, blurry), network):
                if isinstance(window, RestoredWindow):
                    restored += window.frames
                    touched += len(window.guarded)
            before, after = (
                np.array([psnr(to_uint8(x), to_uint8(y)) for x, y in zip(clip, sharp, strict=True)])
                for clip in (blurry, restored)
            )
            before, after = np.minimum(before, 100), np.minimum(after, 100)
            gain = float((after - before).mean())
            bad = before.mean() <= VISIBLE and gain < TOLERATED
            harmed += bad
            print(f"{name:24} {before.mean():6.2f} dB {gain:+.3f}, worst frame {(after - before).min():+.3f}, "
                  f"guard in {touched} of {len(blurry)}{'  HARMED' if bad else ''}", flush=True)  # fmt: skip
    sys.exit(1 if harmed else 0)


def clips() -> Iterator[Clip]:
    """Everything that is tried, in a fixed order."""
    rng = np.random.default_rng(0)
    blurry, sharp = (_frames(DATA / f"city_{kind}.mp4") for kind in ("blurry", "sharp"))
    for factor in (1, 2, 3, 4, 5, 6):
        yield f"zoom {factor}", _enlarged(blurry, factor)[:FRAMES], _enlarged(sharp, factor)[:FRAMES]
    picture = _stretched(sharp[0], 8)
    for speed in (5, 10, 20, 40, 80, 120):
        for duty in (0.3, 0.8):
            yield f"pan {speed} duty {duty}", *_panned(picture, speed, duty)
    for degrees in (1, 3, 8):
        yield f"rotation {degrees}", *_rotated(picture, degrees)
    cut = [np.concatenate([a[:5], b[20:27]]) for a, b in ((blurry, blurry[:, :, ::-1]), (sharp, sharp[:, :, ::-1]))]
    yield "cut in a window", cut[0], cut[1]
    flash = np.ones((FRAMES, 1, 1, 1), np.float32)
    flash[5] = 1.6
    yield "flash", np.clip(blurry[:FRAMES] * flash, 0, 1), np.clip(sharp[:FRAMES] * flash, 0, 1)
    for sigma in (0.01, 0.03, 0.1):
        noise = rng.normal(0, sigma, blurry[:FRAMES].shape).astype(np.float32)
        yield f"noise {sigma}", np.clip(blurry[:FRAMES] + noise, 0, 1), sharp[:FRAMES]
    yield "still", np.repeat(blurry[3:4], FRAMES, 0), np.repeat(blurry[3:4], FRAMES, 0)
    yield "sharp already", sharp[:FRAMES], sharp[:FRAMES]
    for share in (0.1, 0.25, 0.5):  # near-sharp: part of the blur
        yield f"mild {share}", sharp[:FRAMES] + share * (blurry[:FRAMES] - sharp[:FRAMES]), sharp[:FRAMES]
    there_and_back = np.r_[0:28, 26:6:-1]
    yield "long 48 frames", _enlarged(blurry, 4)[there_and_back], _enlarged(sharp, 4)[there_and_back]


def _frames(path: Path) -> np.ndarray:
    with VideoReader(path) as reader:
        return np.stack([frame.rgb for frame in reader]).clip(0, 1)


def _enlarged(clip: np.ndarray, factor: int) -> np.ndarray:
    side = -(-SIZE // factor) + 1
    return np.stack([_stretched(frame[:, :side, :side], factor)[:, :SIZE, :SIZE] for frame in clip])


def _stretched(frame: np.ndarray, factor: int) -> np.ndarray:
    """(3, H, W) -> (3, factor H, factor W), linear."""
    for axis in (1, 2):
        count = frame.shape[axis]
        at = np.clip((np.arange(count * factor) + 0.5) / factor - 0.5, 0, count - 1)
        low = at.astype(np.intp)
        fraction = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        high = np.minimum(low + 1, count - 1)
        frame = frame.take(low, axis) * (1 - fraction) + frame.take(high, axis) * fraction
    return frame


def _panned(picture: np.ndarray, speed: int, duty: float) -> tuple[np.ndarray, np.ndarray]:
    """A window that slides over a picture by whole pixels; exposures of `duty` of a frame's time, in linear light."""
    exposed = max(1, round(speed * duty)) | 1
    steps = np.arange(exposed) - exposed // 2
    starts = exposed + speed * np.arange(FRAMES)
    at = lambda left: picture[:, 400 : 400 + SIZE, left % (picture.shape[2] - SIZE) :][:, :, :SIZE]  # noqa: E731
    blurry = [np.mean([at(s + k) ** 2.2 for k in steps], 0) ** (1 / 2.2) for s in starts]
    return np.stack(blurry).astype(np.float32), np.stack([at(s) for s in starts])


def _rotated(picture: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """A picture that turns around the centre of the frame, `degrees` a frame, exposed for 0.8 of it."""
    axis = np.arange(SIZE) - SIZE / 2

    def at(angle: float) -> np.ndarray:
        c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        rows, columns = 700 + s * axis[None] + c * axis[:, None], 1000 + c * axis[None] - s * axis[:, None]
        return picture[:, rows.round().astype(int), columns.round().astype(int)]

    angles = [degrees * t for t in range(FRAMES)]
    blurry = [np.mean([at(a + degrees * k / 20) ** 2.2 for k in range(-8, 9)], 0) ** (1 / 2.2) for a in angles]
    return np.stack(blurry).astype(np.float32), np.stack([at(a) for a in angles]).astype(np.float32)


if __name__ == "__main__":
    main()
